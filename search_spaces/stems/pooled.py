"""`pooled`: a stem that looks at full resolution before it leaves it."""

from __future__ import annotations

from torch import Tensor, nn

from nas_osr.search_spaces.operations.convolutions import ResidualConv2
from nas_osr.search_spaces.operations.parts import activation, conv_bn


class PooledStem(nn.Module):
    """3x3 convolutions at full and at half resolution, maximum pooling after them, a residual block at half resolution.

    Where `StridedStem` leaves full resolution without having looked beyond single pixels.
    """

    def __init__(self, image_channels: int, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.full, seen = self.make_full(image_channels, channels // 4)
        self.to_half = nn.Sequential(
            conv_bn(seen, half, 3, 1),
            nn.MaxPool2d(2),
            activation(),  # after pooling: the same values on a quarter of the pixels
            ResidualConv2(half, half, 1),
        )
        self.to_quarter = nn.Sequential(conv_bn(half, channels, 3, 1), nn.MaxPool2d(2), activation())

    def make_full(self, image_channels: int, channels: int) -> tuple[nn.Module, int]:
        """What looks at full resolution, with `channels` maps where it can choose, and how many it has."""
        return nn.Sequential(conv_bn(image_channels, channels, 3, 1), activation()), channels

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[B, c, H, W] -> [B, C/2, H/2, W/2] and [B, C, H/4, W/4]."""
        half = self.to_half(self.full(images))
        return half, self.to_quarter(half)
