"""What stands between the last cells of an encoder and its heads: which map is the output."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from nas_osr.search_spaces.operations.parts import activation, conv_bn
from nas_osr.search_spaces.space import NUM_SCALES

BOTTOM = NUM_SCALES - 1


def make_neck(channels_in: int, channels: int) -> nn.Module:
    """A 1x1 convolution for an output that is finer than 1/16: the heads have the channels of 1/16 before them."""
    return nn.Sequential(conv_bn(channels_in, channels, 1, 1), activation())


def to_bottom(maps: Tensor, scale: int) -> Tensor:
    """The output at 1/16, for heads that read a map: the means of 2x2 pixels of one at 1/8."""
    return F.avg_pool2d(maps, 2 ** (BOTTOM - scale)) if scale < BOTTOM else maps
