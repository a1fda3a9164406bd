"""What every encoder of the hierarchical space starts with, and the shapes of what it returns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nas_osr.errors import UserError
from nas_osr.outputs import Features, FeatureShapes


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
    device = next(encoder.parameters(), torch.empty(0)).device
    encoder.eval()
    with torch.no_grad():
        features: Features = encoder(torch.zeros(1, *image_shape, device=device))
    encoder.train(training)
    branches, intermediate = (
        {scale: (map_.shape[1], map_.shape[2], map_.shape[3]) for scale, map_ in maps.items()}
        for maps in (features.branches, features.intermediate)
    )
    return FeatureShapes(branches, intermediate, features.pooled is not None)
