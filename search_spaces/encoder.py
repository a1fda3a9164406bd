"""What every encoder of the hierarchical space starts with, and the shapes of what it returns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nas_osr.errors import UserError
from nas_osr.outputs import Features, FeatureShapes
from nas_osr.search_spaces.operations import SLOPE, ResidualConv2, conv_bn


class Normalise(nn.Module):
    """Images in [0, 1] to zero mean and unit variance per channel."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        return (images - self.mean) / self.std


class StridedStem(nn.Module):
    """NAS-OSR's: a 1x1 convolution and two residual blocks that halve the resolution."""

    def __init__(self, image_channels: int, channels: int) -> None:
        super().__init__()
        quarter, half = channels // 4, channels // 2
        self.pointwise = nn.Sequential(conv_bn(image_channels, quarter, 1, 1), nn.LeakyReLU(SLOPE, inplace=True))
        self.to_half = ResidualConv2(quarter, half, 2)
        self.to_quarter = ResidualConv2(half, channels, 2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[B, c, H, W] -> [B, C/2, H/2, W/2] and [B, C, H/4, W/4]."""
        half = self.to_half(self.pointwise(images))
        return half, self.to_quarter(half)


class PooledStem(nn.Module):
    """3x3 convolutions at full and at half resolution, maximum pooling after them, a residual block at half resolution.

    Where `StridedStem` leaves full resolution without having looked beyond single pixels.
    """

    def __init__(self, image_channels: int, channels: int) -> None:
        super().__init__()
        quarter, half = channels // 4, channels // 2
        self.full = nn.Sequential(conv_bn(image_channels, quarter, 3, 1), nn.LeakyReLU(SLOPE, inplace=True))
        self.to_half = nn.Sequential(
            conv_bn(quarter, half, 3, 1),
            nn.MaxPool2d(2),
            nn.LeakyReLU(SLOPE, inplace=True),  # after pooling: the same values on a quarter of the pixels
            ResidualConv2(half, half, 1),
        )
        self.to_quarter = nn.Sequential(
            conv_bn(half, channels, 3, 1), nn.MaxPool2d(2), nn.LeakyReLU(SLOPE, inplace=True)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[B, c, H, W] -> [B, C/2, H/2, W/2] and [B, C, H/4, W/4]."""
        half = self.to_half(self.full(images))
        return half, self.to_quarter(half)


STEM_CLASSES: dict[str, type[nn.Module]] = {"strided": StridedStem, "pooled": PooledStem}


def build_stem(name: str, image_channels: int, channels: int) -> nn.Module:
    """Images [B, c, H, W] -> C/2 channels at half and C channels at 1/4 resolution; `name` is one of `STEM_CLASSES`."""
    return STEM_CLASSES[name](image_channels, channels)


def check_image_shape(image_shape: tuple[int, int, int]) -> None:
    """UserError unless both sides of (C, H, W) are multiples of 16, which the 1/16 scale needs."""
    _, height, width = image_shape
    if height % 16 or width % 16 or height < 16 or width < 16:
        raise UserError(f"image sides must be multiples of 16, got {height}x{width}: pad or resize the images")


def feature_shapes(encoder: nn.Module, image_shape: tuple[int, int, int]) -> FeatureShapes:
    """The shapes (C, H, W) of the maps that `encoder` returns for images of shape (C, H, W).

    Runs one empty image through the encoder in eval mode, which leaves no trace in it.
    """
    check_image_shape(image_shape)
    training = encoder.training
    device = next(encoder.parameters()).device
    encoder.eval()
    with torch.no_grad():
        features: Features = encoder(torch.zeros(1, *image_shape, device=device))
    encoder.train(training)
    shapes = [{scale: tuple(map_.shape[1:]) for scale, map_ in maps.items()} for maps in features]
    return FeatureShapes(*shapes)  # type: ignore[arg-type]
