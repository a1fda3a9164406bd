"""Bringing uint8 images to a protocol's shape."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_GREY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow converts to "L"


def fit_shape(images: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """uint8 [n, c, h, w] -> uint8 [n, C, H, W].

    28x28 images going to 32x32 are zero-padded by 2; other sizes are resized (bilinear, antialiased). Grey is repeated
    to colour; colour is averaged to grey.
    """
    channels, height, width = shape
    if images.shape[1] == 1:
        images = images.expand(-1, channels, -1, -1)
    elif channels == 1:
        weights = torch.tensor(_GREY_WEIGHTS, device=images.device).view(1, 3, 1, 1)
        images = (images.float() * weights).sum(dim=1, keepdim=True).round().to(torch.uint8)
    if images.shape[2:] == (28, 28) and (height, width) == (32, 32):
        images = F.pad(images, (2, 2, 2, 2))
    if images.shape[2:] != (height, width):
        images = resize(images, height, width)
    return images.contiguous()


def resize(images: Tensor, height: int, width: int) -> Tensor:
    """Bilinear with antialiasing, uint8 to uint8, rounded."""
    resized = F.interpolate(images.float(), (height, width), mode="bilinear", antialias=True, align_corners=False)
    return resized.round().clamp(0, 255).to(torch.uint8)
