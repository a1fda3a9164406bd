"""VGG networks: torchvision's VGG-13, and the DHRNet backbone of CROSR."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from nas_osr.outputs import Features
from nas_osr.retrain.networks.base import Network


class VGG13(Network):
    """The ten convolutions of VGG-13 with BatchNorm (Simonyan & Zisserman 2015), under one linear head.

    The last map has 512 features at 1/32 of the image's resolution: a single position for 32 pixels.
    """

    smallest_side = 32

    def build(self, image_channels: int, image_shape: tuple[int, int, int]) -> None:
        layers = list(make_layers(cfgs["B"], batch_norm=True))
        layers[0] = nn.Conv2d(image_channels, 64, 3, padding=1)
        for layer in layers:
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:  # as torchvision's VGG does
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        # each stage ends before a pooling, with the last map at its resolution
        ends = [index for index, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
        starts = [0, *ends[:-1]]
        self.stages = nn.ModuleList(nn.Sequential(*layers[a:b]) for a, b in zip(starts, ends, strict=True))
        self.pool = layers[-1]

    def forward(self, images: Tensor) -> Features:
        """[B, C, H, W] in [0, 1] -> the last map, and those at 1/2, 1/4 and 1/8."""
        maps = self.in_turn(images, *self.stages)
        return Features({2: self.pool(maps[-1])}, {-1: maps[1], 0: maps[2], 1: maps[3]})


class DHRNet(Network):
    """The encoder of CROSR's DHRNet for small colour images (Yoshihashi et al. 2019), after VGG.

    Three stages of 3x3 convolutions with BatchNorm and ReLU (2 of 64 channels, 2 of 128, 3 of 256), each ending with
    max pooling and dropout of a quarter; then two fully connected layers of 4,096 with dropout of a half, as VGG has
    them. The objective `crosr` adds the lateral latents and the reconstruction: its maps are those after each pooling.
    """

    def build(self, image_channels: int, image_shape: tuple[int, int, int]) -> None:
        self.to_half = make_stage((image_channels, 64, 64))
        self.to_quarter = make_stage((64, 128, 128))
        self.to_eighth = make_stage((128, 256, 256, 256))
        flat = 256 * (image_shape[1] // 8) * (image_shape[2] // 8)
        self.fully_connected = nn.Sequential(
            nn.Linear(flat, 4096), nn.ReLU(inplace=True), nn.Dropout(0.5),
            nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Dropout(0.5),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Features:
        """[B, C, H, W] in [0, 1] -> the last layer as a map [B, 4096, 1, 1], and the maps at 1/2, 1/4 and 1/8."""
        half, quarter, eighth = self.in_turn(images, self.to_half, self.to_quarter, self.to_eighth)
        last = self.fully_connected(eighth.flatten(1))
        return Features({2: last[:, :, None, None]}, {-1: half, 0: quarter, 1: eighth})


def make_stage(channels: tuple[int, ...]) -> nn.Sequential:
    """Convolutions between these numbers of channels, then max pooling and dropout."""
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.MaxPool2d(2), nn.Dropout(0.25))
