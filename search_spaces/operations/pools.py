"""`average_pool` and `maximum_pool`: 3x3 pooling, with a 1x1 convolution where the channels are doubled."""

from __future__ import annotations

from torch import nn

from nas_osr.search_spaces.operations.parts import conv_bn


class AveragePool(nn.Sequential):
    """The mean of 3x3 pixels, of those inside the map."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        pool = nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
        super().__init__(pool, *_to(channels_in, channels_out, stride))


class MaximumPool(nn.Sequential):
    """The largest of 3x3 pixels."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__(nn.MaxPool2d(3, stride, padding=1), *_to(channels_in, channels_out, stride))


def _to(channels_in: int, channels_out: int, stride: int) -> list[nn.Module]:
    # a cell that halves has weights also where the coarser scale is narrowed to as many channels
    return [] if stride == 1 and channels_in == channels_out else [conv_bn(channels_in, channels_out, 1, 1)]
