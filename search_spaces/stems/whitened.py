"""`whitened`: a stem whose first layer is fixed: what whitens the training images, patch by patch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas_osr.search_spaces.operations.parts import activation
from nas_osr.search_spaces.stems.pooled import PooledStem
from nas_osr.training.prepared import PreparedLayer

SIDE = 2  # pixels of a patch
SMALLEST = 5e-4  # added to a variance that is divided by, as airbench does


class Whitening(PreparedLayer):
    """Frozen 2x2 filters that whiten patches, each with its negative, and a bias that is learned.

    After airbench (Jordan 2024): the filters are the eigenvectors of the second moment of 2x2 patches of normalised
    training images, over the root of its eigenvalues. They are no parameters: no optimiser moves them, and weight decay
    does not shrink them.

    Attributes:
        width: how many filters, 8 for each channel of the images.
        filters: [width, c, 2, 2], zero before `prepare`.
    """

    def __init__(self, image_channels: int) -> None:
        super().__init__()
        self.width = 2 * image_channels * SIDE**2
        self.filters: Tensor
        self.register_buffer("filters", torch.zeros(self.width, image_channels, SIDE, SIDE))
        self.bias = nn.Parameter(torch.zeros(self.width))

    @property
    def is_prepared(self) -> bool:
        return bool(self.filters.any())

    def prepare(self, blocks: Iterator[Tensor]) -> None:
        self.filters.copy_(whitening_filters(blocks))

    def forward(self, images: Tensor) -> Tensor:
        """[B, c, H, W] normalised -> [B, 8c, H, W]; beyond the right and the lower edge there are zeros."""
        return F.conv2d(F.pad(images, (0, SIDE - 1, 0, SIDE - 1)), self.filters, self.bias)


class WhitenedStem(PooledStem):
    """`PooledStem` that begins with `Whitening` in place of a 3x3 convolution: 8 maps a channel at full resolution."""

    def make_full(self, image_channels: int, channels: int) -> tuple[nn.Module, int]:
        whitening = Whitening(image_channels)
        return nn.Sequential(whitening, activation()), whitening.width


def whitening_filters(blocks: Iterator[Tensor]) -> Tensor:
    """Filters [8c, c, 2, 2] for blocks of images [b, c, H, W], the strongest direction first, then their negatives."""
    moment, patches, channels = torch.zeros((), dtype=torch.float64), 0, 0
    for images in blocks:
        channels = images.shape[1]
        found = F.unfold(images, SIDE).transpose(1, 2).flatten(0, 1)  # [b (H-1)(W-1), 4c]
        moment, patches = moment.to(found.device) + (found.T @ found).double(), patches + len(found)
    values, vectors = torch.linalg.eigh(moment / patches)
    scaled = (vectors / (values.clamp_min(0) + SMALLEST).sqrt()).T.flip(0).float()
    return torch.cat([scaled, -scaled]).unflatten(1, (channels, SIDE, SIDE))
