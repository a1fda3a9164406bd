"""The candidate operations of a cell, each in two forms: stride 1 keeps the map, stride 2 halves its resolution.

Source: NAS-OSR, search space; skip, 3x3 convolution, two 3x3 convolutions with a residual connection.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from nas_osr.plugins import load_class
from nas_osr.search_spaces.layout import Convolution, subsample

SLOPE = 0.2  # of every LeakyReLU

Operation = Callable[[int, int, int], nn.Module]


def conv_bn(channels_in: int, channels_out: int, kernel: int, stride: int) -> nn.Sequential:
    """A convolution with "same" padding and BatchNorm, no activation."""
    return nn.Sequential(Convolution(channels_in, channels_out, kernel, stride), nn.BatchNorm2d(channels_out))


# 1x1 convolutions with stride 2 are written as a convolution of every other pixel: the same values, while PyTorch 2.15
# crashes in the backward pass of some of them on the CPU (4 -> 8 channels, channels_last).


class Subsample(nn.Module):
    """Every other pixel of every other row, from the one at `start` (0 or 1) on."""

    def __init__(self, start: int = 0) -> None:
        super().__init__()
        self.start = start

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H/2, W/2]."""
        return subsample(x, self.start)


class FactorizedReduce(nn.Module):
    """Halves the resolution without a 3x3 kernel: two 1x1 convolutions on pixels one diagonal step apart (DARTS)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.even = nn.Sequential(Subsample(0), nn.Conv2d(channels_in, channels_out // 2, 1, bias=False))
        self.odd = nn.Sequential(Subsample(1), nn.Conv2d(channels_in, channels_out - channels_out // 2, 1, bias=False))
        self.bn = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C_out, H/2, W/2]."""
        return self.bn(torch.cat([self.even(x), self.odd(x)], dim=1))


class ResidualConv2(nn.Module):
    """Two 3x3 convolutions with a residual connection."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(conv_bn(channels_in, channels_out, 3, stride), nn.LeakyReLU(SLOPE, inplace=True))
        self.second = conv_bn(channels_out, channels_out, 3, 1)
        self.shortcut: nn.Module = nn.Identity()
        if stride == 2:
            self.shortcut = nn.Sequential(Subsample(), conv_bn(channels_in, channels_out, 1, 1))
        elif channels_in != channels_out:
            self.shortcut = conv_bn(channels_in, channels_out, 1, 1)
        self.activation = nn.LeakyReLU(SLOPE, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C_out, H/stride, W/stride]."""
        return self.activation(self.second(self.first(x)) + self.shortcut(x))


class Skip(nn.Sequential):
    """Identity; where the resolution is halved, a factorised reduction."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        same = stride == 1 and channels_in == channels_out
        super().__init__(*([] if same else [FactorizedReduce(channels_in, channels_out)]))


class Conv(nn.Sequential):
    """One 3x3 convolution."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__(conv_bn(channels_in, channels_out, 3, stride), nn.LeakyReLU(SLOPE, inplace=True))


OPERATIONS: dict[str, str] = {
    "skip": "nas_osr.search_spaces.operations:Skip",
    "conv": "nas_osr.search_spaces.operations:Conv",
    "conv2": "nas_osr.search_spaces.operations:ResidualConv2",
}


def get_operation(name: str, *, import_plugins: bool = False) -> Operation:
    """The operation of this name or dotted path: called with (channels_in, channels_out, stride), it gives a module.

    `import_plugins` is for names from the user's own command line or configuration; see `nas_osr.plugins.load_class`.
    Raises UserError when there is no such thing.
    """
    return load_class("operation", name, OPERATIONS, nn.Module, import_plugins=import_plugins)
