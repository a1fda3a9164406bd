"""The network of Class Anchor Clustering (Miller et al. 2021), which goes back to Neal et al. (2018)."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from nas_osr.outputs import Features
from nas_osr.retrain.networks.base import Network

SLOPE = 0.2  # of every LeakyReLU


class CACNetwork(Network):
    """Nine 3x3 convolutions in three blocks, each of which ends by halving the resolution and with Dropout2d.

    Channels are 64, 64, 128 and then 128 throughout. The dropped share is 0.2, and 0.3 for images above 32 pixels, as
    the paper has it for TinyImageNet. The map under the heads is the last one flattened to [B, 128 H/8 W/8, 1, 1], so
    that pooling changes nothing and a linear head is the paper's.
    """

    def build(self, image_channels: int, image_shape: tuple[int, int, int]) -> None:
        dropout = 0.2 if max(image_shape[1:]) <= 32 else 0.3
        self.to_half = make_block((image_channels, 64, 64, 128), dropout)
        self.to_quarter = make_block((128, 128, 128, 128), dropout)
        self.to_eighth = make_block((128, 128, 128, 128), dropout)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Features:
        """[B, C, H, W] in [0, 1] -> the flattened map, and those at 1/2, 1/4 and 1/8."""
        half, quarter, eighth = self.in_turn(images, self.to_half, self.to_quarter, self.to_eighth)
        return Features({2: eighth.flatten(1)[:, :, None, None]}, {-1: half, 0: quarter, 1: eighth})


def make_block(channels: tuple[int, int, int, int], dropout: float) -> nn.Sequential:
    """Three convolutions between these numbers of channels, the last with stride 2, then Dropout2d."""
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(pairwise(channels)):
        stride = 2 if number == 2 else 1
        layers += [
            nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.LeakyReLU(SLOPE, inplace=True),
        ]
    return nn.Sequential(*layers, nn.Dropout2d(dropout))
