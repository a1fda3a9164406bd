"""Top-k similarity of GradMix (Informed Mixing): how close an image is to its nearest training images of each class."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nas_osr.errors import UserError
from nas_osr.outputs import Outputs
from nas_osr.scoring.base import Scores, ScoringRule, count_classes, in_blocks

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
        if self.directions is None or self.counts is None:
            raise RuntimeError("fit comes before the scores")
        assert outputs.embedding is not None
        embedding = outputs.embedding
        by_class, found = self.directions.split(self.counts.tolist()), []
        for queries in map(normalise, in_blocks(embedding, self.block_size)):
            found.append(torch.stack([self.largest_sum(queries, own) for own in by_class], dim=1))
        scores = torch.cat(found)
        return Scores(scores.amax(dim=1), scores)

    def largest_sum(self, queries: Tensor, directions: Tensor) -> Tensor:
        """[b] scores of queries [b, D] for one class's training embeddings [m, D], all of length 1."""
        if directions.shape[0] == 0:
            return torch.full_like(queries[:, 0], -math.inf)
        found = [largest(queries @ part.to(queries.device).T, self.k) for part in directions.split(self.block_size)]
        return largest(torch.cat(found, dim=1), self.k).mean(dim=1) * self.k


def largest(values: Tensor, count: int) -> Tensor:
    """[B, c] the largest values of each row of [B, M], c = `count` or, if fewer, M."""
    return values.topk(min(count, values.shape[1]), dim=1).values


def normalise(vectors: Tensor) -> Tensor:
    """[B, D] float64 vectors of length 1, zeros where they were zero; no size of theirs over- or underflows."""
    vectors = vectors.double().clamp(-FEATURE_LIMIT, FEATURE_LIMIT)
    tiny = torch.finfo(torch.float64).tiny
    vectors = vectors / vectors.abs().amax(dim=1, keepdim=True).clamp_min(tiny)
    return vectors / vectors.norm(dim=1, keepdim=True).clamp_min(tiny)
