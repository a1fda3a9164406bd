"""`strided`: NAS-OSR's stem."""

from __future__ import annotations

from torch import Tensor, nn

from nas_osr.search_spaces.operations.convolutions import ResidualConv2
from nas_osr.search_spaces.operations.parts import activation, conv_bn


class StridedStem(nn.Module):
    """A 1x1 convolution and two residual blocks that halve the resolution."""

    def __init__(self, image_channels: int, channels: int) -> None:
        super().__init__()
        quarter, half = channels // 4, channels // 2
        self.pointwise = nn.Sequential(conv_bn(image_channels, quarter, 1, 1), activation())
        self.to_half = ResidualConv2(quarter, half, 2)
        self.to_quarter = ResidualConv2(half, channels, 2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[B, c, H, W] -> [B, C/2, H/2, W/2] and [B, C, H/4, W/4]."""
        half = self.to_half(self.pointwise(images))
        return half, self.to_quarter(half)
