"""What stands between the last cells of an encoder and its heads: which map is the output, and how it is pooled."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas_osr.search_spaces.operations.parts import activation, conv_bn
from nas_osr.search_spaces.space import NUM_SCALES

BOTTOM = NUM_SCALES - 1
SHARES: dict[str, tuple[float, float]] = {"average": (1.0, 0.0), "maximum": (0.0, 1.0), "both": (0.5, 0.5)}
"""By pooling: how much of it is the mean over a channel, and how much the largest value."""


def make_neck(channels_in: int, channels: int) -> nn.Module:
    """A 1x1 convolution for an output that is finer than 1/16: the heads have the channels of 1/16 before them."""
    return nn.Sequential(conv_bn(channels_in, channels, 1, 1), activation())


def to_bottom(maps: Tensor, scale: int) -> Tensor:
    """The output at 1/16, for heads that read a map: the means of 2x2 pixels of one at 1/8."""
    return F.avg_pool2d(maps, 2 ** (BOTTOM - scale)) if scale < BOTTOM else maps


def pool_maps(maps: Tensor, shares: Tensor) -> Tensor:
    """[B, C, H, W] and [2] -> [B, C] float32: the mean and the largest value of each channel, by their shares."""
    maps = maps.float()
    return shares[0] * maps.mean(dim=(2, 3)) + shares[1] * maps.amax(dim=(2, 3))


def pool_branches(branches: Mapping[int, Tensor], shares: Tensor) -> Tensor:
    """[B, D], in the order of `nas_osr.objectives.parts.pooling.pool`: coarsest first."""
    return torch.cat([pool_maps(branches[scale], shares) for scale in sorted(branches, reverse=True)], dim=1)
