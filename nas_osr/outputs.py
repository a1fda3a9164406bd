"""What a network says about a batch of images: one typed container, shared by objectives and scoring rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Features(NamedTuple):
    """Feature maps of an encoder, keyed by scale (0 is 1/4 resolution, 1 is 1/8, 2 is 1/16; -1 is the stem's 1/2).

    `branches` holds the enabled outputs, scale 2 always among them; `intermediate` the last map that the way to them
    passed through at each scale. Every map is [B, C_scale, H_scale, W_scale]. `pooled`, [B, D], is what an encoder has
    pooled itself; None of one whose heads take the mean over each channel.
    """

    branches: dict[int, Tensor]
    intermediate: dict[int, Tensor]
    pooled: Tensor | None = None


class FeatureShapes(NamedTuple):
    """The shapes (C, H, W) of `Features`, keyed alike, and whether the encoder pools itself."""

    branches: dict[int, tuple[int, int, int]]
    intermediate: dict[int, tuple[int, int, int]]
    pools: bool = False


@dataclass
class Outputs:
    """Inference results for B images over N known classes; what an objective does not produce is None.

    Attributes:
        logits: [B, N] unnormalised class scores.
        embedding: [B, D] features that the objective compares images by.
        latent_mean, latent_variance: [B, D] of the class attribute u (or z of a GMVAE); variances are positive.
        instance_mean: [B, D] mean of the instance attribute z.
        class_reconstruction_error: [B, N] mean squared error of the reconstruction under each class, in normalised
            pixel units.
        distances: [B, N] to class anchors or centroids.
    """

    logits: Tensor | None = None
    embedding: Tensor | None = None
    latent_mean: Tensor | None = None
    latent_variance: Tensor | None = None
    instance_mean: Tensor | None = None
    class_reconstruction_error: Tensor | None = None
    distances: Tensor | None = None

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """All field names, in order."""
        return tuple(field.name for field in fields(cls))

    def available(self) -> set[str]:
        """The names of the fields that are not None."""
        return {name for name in self.names() if getattr(self, name) is not None}

    def map(self, function: Callable[[Tensor], Tensor]) -> Outputs:
        """A copy with `function` applied to every tensor that is there."""
        return type(self)(**{name: function(getattr(self, name)) for name in self.available()})

    def __len__(self) -> int:
        """The number of images B (0 when there is no tensor at all)."""
        return max((len(getattr(self, name)) for name in self.available()), default=0)

    def __getitem__(self, index: Any) -> Outputs:
        """The images selected by an index, slice, mask or integer tensor."""
        return self.map(lambda tensor: tensor[index])

    @staticmethod
    def concatenate(parts: list[Outputs]) -> Outputs:
        """All images of several batches in one container; every part must have the same fields."""
        names, kind = parts[0].available(), type(parts[0])
        return kind(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


@dataclass
class Observed(Outputs):
    """What a rule that asks the network itself (`ScoringRule.observe`) can be told besides.

    Attributes:
        layers: [B, L, C] the mean of each channel of the encoder's maps, from the finest to the coarsest; behind the
            channels of a narrower map there are zeros.
        turns: [B, 4] logits of how far an image has been turned to the left, in quarters; None without the side task
            `rotpred`.
    """

    layers: Tensor | None = None
    turns: Tensor | None = None


def mean_of_both(infer: Callable[[Tensor], Outputs], images: Tensor) -> Outputs:
    """The means of the outputs for images [B, C, H, W] and for their mirror images (left to right)."""
    seen, mirrored = infer(images), infer(images.flip(-1))
    if isinstance(mirrored, Observed) and mirrored.turns is not None:
        mirrored.turns = mirrored.turns[:, [0, 3, 2, 1]]  # in a mirror, left is right
    return type(seen)(**{name: (getattr(seen, name) + getattr(mirrored, name)) / 2 for name in seen.available()})
