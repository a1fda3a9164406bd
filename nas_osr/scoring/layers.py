"""`knn_layers`: nearest training images in the features of several layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nas_osr.errors import UserError
from nas_osr.outputs import Observed, Outputs
from nas_osr.scoring.base import Scores, ScoringRule, in_blocks
from nas_osr.scoring.neighbours import Neighbours, largest, normalise


class KNNLayers(ScoringRule):
    """The sum over layers of the similarity to the k-th nearest training image there, each on the scale of known ones.

    A layer is the last map of the encoder at one resolution, each channel averaged. In each, the cosine similarity is
    that of KNN (Sun et al. 2022, eq. 3). Before they are added, its mean over known validation images is taken off and
    it is divided by its standard deviation there (sums over layers: Lambert et al. 2023, "Multi-layer aggregation as a
    key to feature-based OOD detection"); all weigh the same, since weights are learned from unknown images elsewhere
    (Lee et al. 2018). Class scores are the logits, or without any the sums of `neighbours` in the coarsest map.

    Args:
        acceptance: the share of known validation images to accept.
        k: which nearest training image counts; the last where there are fewer.
        layers: so many, from the coarsest map on; all where there are fewer.
        block_size: how many images are compared at once with how many training images.

    Attributes:
        directions: [L, M, C] float32 training features of length 1.
        targets: [M] int64, their classes.
        centre, spread: [L] float64, of known validation images.
    """

    name = "knn_layers"
    paper = "KNN (Sun et al. 2022), summed over layers (Lambert et al. 2023)"
    needs = frozenset()
    needs_network = True
    observes = frozenset({"layers"})
    no_graph = "it looks into the network"
    learned = ("directions", "targets", "centre", "spread")

    def __init__(self, acceptance: float = 0.95, k: int = 50, layers: int = 3, block_size: int = 2048) -> None:
        super().__init__(acceptance)
        self.k, self.layers = self.check_count("k", k), self.check_count("layers", layers)
        self.block_size = self.check_count("block_size", block_size)

    def observe(self, infer: Callable[..., Outputs], images: Tensor) -> Outputs:
        """The outputs with the features of the last `layers` maps."""
        found = infer(images, whole=True)
        assert isinstance(found, Observed) and found.layers is not None
        return Observed(logits=found.logits, layers=found.layers[:, -self.layers :])

    def fit(self, outputs: Outputs, targets: Tensor, objective: object | None = None) -> None:
        """Keep the training features' directions and classes. Raises UserError without any."""
        if len(targets) == 0:
            raise UserError(f"scoring rule '{self.name}': no known training image to compare with")
        self.directions, self.targets = directions_of(outputs), targets

    def set_threshold(self, outputs: Outputs, targets: Tensor) -> None:
        """Take the scale of each layer from known validation images, and then the threshold."""
        found = self.similarities(outputs)
        self.quantile(found.sum(dim=0), 0.5)  # UserError: none, or not numbers
        self.centre, self.spread = found.mean(dim=1), found.std(dim=1, correction=0).clamp_min(1e-12)
        super().set_threshold(outputs, targets)

    def threshold_source(self) -> dict[str, Any]:
        return {"picker": "quantile", "acceptance": self.acceptance}

    def scores(self, outputs: Outputs) -> Scores:
        """The sum, and the class scores."""
        found = self.similarities(outputs)
        centre, spread = (self.learnt(name, found) for name in ("centre", "spread"))
        by_class = self.class_scores(outputs) if outputs.logits is None else outputs.logits.double()
        return Scores(((found - centre[:, None]) / spread[:, None]).sum(dim=0), by_class)

    def class_scores(self, outputs: Outputs) -> Tensor:
        """[B, N] float64, without logits: the sums of `neighbours` in the last map."""
        queries = directions_of(outputs)[-1]
        classes = Neighbours(k=self.k, block_size=self.block_size)
        classes.fit(Outputs(embedding=self.learnt("directions", queries)[-1]), self.learnt("targets", queries))
        return classes.scores(Outputs(embedding=queries)).class_scores

    def similarities(self, outputs: Outputs) -> Tensor:
        """[L, B] float64: in each layer, the k-th largest cosine similarity to a training image."""
        queries = directions_of(outputs)
        kept = self.learnt("directions", queries)
        return torch.stack([self.nearest(own, training) for own, training in zip(queries, kept, strict=True)]).double()

    def nearest(self, queries: Tensor, training: Tensor) -> Tensor:
        """[B] the k-th largest product of queries [B, C] with training features [M, C]."""
        found = []
        for block in in_blocks(queries, self.block_size):
            best = block[:, :0]
            for part in training.split(self.block_size):
                best = largest(torch.cat([best, block @ part.T], dim=1), self.k)
            found.append(best[:, -1])
        return torch.cat(found)


def directions_of(outputs: Outputs) -> Tensor:
    """[L, B, C] float32 features of each layer, of length 1."""
    if not isinstance(outputs, Observed) or outputs.layers is None:
        raise RuntimeError("observe comes before fit and scores")
    return torch.stack([normalise(features).float() for features in outputs.layers.detach().unbind(dim=1)])
