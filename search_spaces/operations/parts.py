"""What operations and stems are made of."""

from __future__ import annotations

from torch import Tensor, nn

from nas_osr.search_spaces.layout import subsample
from nas_osr.search_spaces.paper import SLOPE


def activation() -> nn.Module:
    """The space's activation, which works in place."""
    return nn.LeakyReLU(SLOPE, inplace=True)


def conv_bn(channels_in: int, channels_out: int, kernel: int, stride: int) -> nn.Sequential:
    """A convolution with "same" padding and BatchNorm, no activation."""
    convolution = nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out))


class Subsample(nn.Module):
    """Every other pixel of every other row, from the one at `start` (0 or 1) on.

    A 1x1 convolution with stride 2 is written as a convolution of these: the same values, while PyTorch 2.15 crashes in
    the backward pass of some of them on the CPU (4 -> 8 channels, channels_last).
    """

    def __init__(self, start: int = 0) -> None:
        super().__init__()
        self.start = start

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H/2, W/2]."""
        return subsample(x, self.start)
