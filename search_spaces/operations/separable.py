"""`separable3`, `separable5` and `dilated3`: a convolution of each channel by itself, then one across channels."""

from __future__ import annotations

from torch import nn

from nas_osr.search_spaces.operations.parts import activation, conv_bn


class _Separable(nn.Sequential):
    kernel, dilation = 3, 1

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        padding = self.dilation * (self.kernel // 2)
        depthwise = nn.Conv2d(
            channels_in, channels_in, self.kernel, stride, padding, self.dilation, channels_in, bias=False
        )
        super().__init__(depthwise, conv_bn(channels_in, channels_out, 1, 1), activation())


class Separable3(_Separable):
    """A depthwise 3x3 and a 1x1 convolution (Chollet 2017), once, where DARTS has the pair twice."""


class Separable5(_Separable):
    """A depthwise 5x5 and a 1x1 convolution."""

    kernel = 5


class Dilated3(_Separable):
    """A depthwise 3x3 convolution with dilation 2 and a 1x1 convolution (DARTS): what a 5x5 sees, of 9 weights."""

    dilation = 2
