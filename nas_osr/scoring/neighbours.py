"""Rules that compare an image with its nearest training images: GradMix's sum by class, KNN, NNGuide."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from nas_osr.errors import UserError
from nas_osr.outputs import Outputs
from nas_osr.scoring.base import Scores, ScoringRule, bounded, count_classes, in_blocks

#: Larger features count as this, so that infinite ones keep a direction.
FEATURE_LIMIT = 1e300


class Neighbours(ScoringRule):
    """Per class the sum of the k largest cosine similarities to its training images: the largest is the knownness.

    A class with m < k training images has the sum of all m, times k / m, so that every class's sum lies in [-k, k]; one
    without any has -inf and is never the label. An embedding of zeros has similarity 0 to everything.

    Attributes:
        k: how many neighbours of each class count.
        block_size: how many images are compared at once with how many training images. It bounds memory (a block takes
            8 block_size^2 bytes) and changes results by rounding only.
        directions: [M, D] float64 training embeddings of length 1, sorted by class.
        counts: [N] int64, training images per class.
    """

    name = "neighbours"
    paper = "GradMix"
    needs = frozenset({"embedding"})
    learned = ("directions", "counts")

    def __init__(self, acceptance: float = 0.95, k: int = 10, block_size: int = 2048) -> None:
        super().__init__(acceptance)
        self.k = self.check_count("k", k)
        self.block_size = self.check_count("block_size", block_size)

    def fit(self, outputs: Outputs, targets: Tensor, objective: object | None = None) -> None:
        """Keep the training embeddings' directions. targets: [B] int64 in 0..N-1. Raises UserError without any."""
        assert outputs.embedding is not None
        if len(targets) == 0:
            raise UserError(f"scoring rule '{self.name}': no known training image to compare with")
        order = targets.argsort(stable=True).to(outputs.embedding.device)
        embedding = outputs.embedding.detach()
        self.directions = torch.empty(embedding.shape, dtype=torch.float64, device=embedding.device)
        for start in range(0, len(order), self.block_size):
            block = slice(start, start + self.block_size)
            self.directions[block] = normalise(embedding[order[block]])
        self.counts = torch.bincount(targets, minlength=count_classes(outputs, targets, objective)).cpu()

    def scores(self, outputs: Outputs) -> Scores:
        """The sums of the k largest cosine similarities to each class's training images, and the largest of them."""
        found = [self.sums(by_class) for by_class in self.nearest(outputs)]
        scores = torch.cat(found)
        return Scores(scores.amax(dim=1), scores)

    def nearest(self, outputs: Outputs) -> Iterator[list[Tensor]]:
        """Block of images by block of images, for each class the k largest similarities [b, k], or [b, m] of m < k."""
        if self.directions is None or self.counts is None:
            raise RuntimeError("fit comes before the scores")
        assert outputs.embedding is not None
        by_class = self.directions.split(self.counts.tolist())
        for queries in map(normalise, in_blocks(outputs.embedding, self.block_size)):
            yield [self.most_similar(queries, own) for own in by_class]

    def most_similar(self, queries: Tensor, directions: Tensor) -> Tensor:
        """[b, k] the k largest products of queries [b, D] with training embeddings [m, D]; [b, m] where m < k."""
        found = [largest(queries @ part.to(queries.device).T, self.k) for part in directions.split(self.block_size)]
        return largest(torch.cat(found, dim=1), self.k)

    def sums(self, by_class: list[Tensor]) -> Tensor:
        """[b, N] each class's sum, of what `nearest` yields."""
        return torch.stack([
            own.mean(dim=1) * self.k if own.shape[1] else own.new_full((len(own),), -math.inf) for own in by_class
        ], dim=1)  # fmt: skip


class KNN(Neighbours):
    """Similarity to the k-th nearest training image of any class (Sun et al. 2022, eq. 3), in [-1, 1].

    The paper's distance of vectors of length 1 falls as this cosine rises. The last one where there are fewer than k.
    Class scores are those of `Neighbours` for the same k, 50: the paper's for CIFAR-10.
    """

    name = "knn"
    paper = "KNN (Sun et al. 2022)"

    def __init__(self, acceptance: float = 0.95, k: int = 50, block_size: int = 2048) -> None:
        super().__init__(acceptance, k, block_size)

    def scores(self, outputs: Outputs) -> Scores:
        """The k-th largest cosine similarity, and each class's sum of its k largest."""
        parts = [(largest(torch.cat(found, dim=1), self.k)[:, -1], self.sums(found)) for found in self.nearest(outputs)]
        return Scores(*(torch.cat(values) for values in zip(*parts, strict=True)))


class NNGuide(Neighbours):
    """Nearest neighbour guidance (Park et al. 2023, eq. 3 and 4): the energy, times the mean of the k largest
    cosine similarities to training images that are weighted by their own energies. Energy is log sum exp of the logits.

    Of training images all are kept, where the paper draws a share. Class scores are the logits.
    """

    name = "nnguide"
    paper = "NNGuide (Park et al. 2023)"
    needs = frozenset({"embedding", "logits"})

    def fit(self, outputs: Outputs, targets: Tensor, objective: object | None = None) -> None:
        """Keep the training embeddings' directions, weighted. Raises UserError without any."""
        super().fit(outputs, targets, objective)
        assert outputs.logits is not None
        order = targets.argsort(stable=True).to(outputs.logits.device)
        self.directions = self.directions * energy(outputs.logits[order])[:, None]

    def scores(self, outputs: Outputs) -> Scores:
        """Energy times guidance, and the logits."""
        assert outputs.logits is not None
        guidance = torch.cat([largest(torch.cat(found, dim=1), self.k).mean(dim=1) for found in self.nearest(outputs)])
        return Scores(energy(outputs.logits) * guidance, outputs.logits.double())


def energy(logits: Tensor) -> Tensor:
    """[B] float64, log sum exp of logits [B, N]."""
    return torch.logsumexp(bounded(logits), dim=1)


def largest(values: Tensor, count: int) -> Tensor:
    """[B, c] the largest values of each row of [B, M], c = `count` or, if fewer, M."""
    return values.topk(min(count, values.shape[1]), dim=1).values


def normalise(vectors: Tensor) -> Tensor:
    """[B, D] float64 vectors of length 1, zeros where they were zero; no size of theirs over- or underflows."""
    vectors = vectors.double().clamp(-FEATURE_LIMIT, FEATURE_LIMIT)
    tiny = torch.finfo(torch.float64).tiny
    vectors = vectors / vectors.abs().amax(dim=1, keepdim=True).clamp_min(tiny)
    return vectors / vectors.norm(dim=1, keepdim=True).clamp_min(tiny)
