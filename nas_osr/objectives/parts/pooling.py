"""Global pooling of an encoder's maps: the features under every head that does not need the image's layout."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from nas_osr.outputs import Features, FeatureShapes

SHARES: dict[str, tuple[float, float]] = {"average": (1.0, 0.0), "maximum": (0.0, 1.0), "both": (0.5, 0.5)}
"""By pooling: how much of it is the mean over a channel, and how much the largest value."""


def pooled_width(shapes: FeatureShapes) -> int:
    """D, the number of features that `pool` returns for maps of these shapes."""
    return sum(shape[0] for shape in shapes.branches.values())


def pool(features: Features, pooling: str = "average") -> Tensor:
    """Every channel of the 1/16 map pooled, then of the finer branches where enabled: [B, D] float32.

    The order is by scale, coarsest first, whatever the order in `features`. What the encoder has pooled itself is taken
    as it is.

    Args:
        pooling: one of `SHARES`.
    """
    if features.pooled is not None:
        return features.pooled
    if pooling != "average":
        return pool_branches(features.branches, SHARES[pooling])
    scales = sorted(features.branches, reverse=True)
    return torch.cat([features.branches[scale].float().mean(dim=(2, 3)) for scale in scales], dim=1)


def pool_layers(features: Features) -> Tensor:
    """`Observed.layers`: the last map at each scale on the way, then the branches that are none of these."""
    maps = [features.intermediate[scale] for scale in sorted(features.intermediate)]
    maps += [branch for _, branch in sorted(features.branches.items()) if all(branch is not map_ for map_ in maps)]
    means, width = [map_.float().mean(dim=(2, 3)) for map_ in maps], max(map_.shape[1] for map_ in maps)
    return torch.stack([F.pad(mean, (0, width - mean.shape[1])) for mean in means], dim=1)


def pool_maps(maps: Tensor, shares: Tensor | tuple[float, float]) -> Tensor:
    """[B, C, H, W] and [2] -> [B, C] float32: the mean and the largest value of each channel, by their shares."""
    maps = maps.float()
    return shares[0] * maps.mean(dim=(2, 3)) + shares[1] * maps.amax(dim=(2, 3))


def pool_branches(branches: Mapping[int, Tensor], shares: Tensor | tuple[float, float]) -> Tensor:
    """[B, D], in the order of `pool`: coarsest first."""
    return torch.cat([pool_maps(branches[scale], shares) for scale in sorted(branches, reverse=True)], dim=1)
