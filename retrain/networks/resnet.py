"""torchvision's residual networks for small images."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torchvision.models as models
from torch import Tensor, nn

from nas_osr.outputs import Features
from nas_osr.retrain.networks.base import Network


class ResNet(Network):
    """A residual network (He et al. 2016) whose stem is a 3x3 convolution with stride 1 and no pooling.

    The last map is at 1/8 of the image's resolution. Weights are fresh.
    """

    make: ClassVar[Callable[..., models.ResNet]]

    def build(self, image_channels: int, image_shape: tuple[int, int, int]) -> None:
        body = type(self).make(weights=None)
        stem = nn.Conv2d(image_channels, body.conv1.out_channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")  # as torchvision does for the others
        self.stem = nn.Sequential(stem, body.bn1, body.relu, body.layer1)
        self.to_half = body.layer2
        self.to_quarter = body.layer3
        self.to_eighth = body.layer4

    def forward(self, images: Tensor) -> Features:
        """[B, C, H, W] in [0, 1] -> the last map, and those at 1/2, 1/4 and 1/8."""
        _, half, quarter, eighth = self.in_turn(images, self.stem, self.to_half, self.to_quarter, self.to_eighth)
        return Features({2: eighth}, {-1: half, 0: quarter, 1: eighth})


class ResNet18(ResNet):
    """18 layers, 512 features."""

    make = staticmethod(models.resnet18)


class ResNet34(ResNet):
    """34 layers, 512 features."""

    make = staticmethod(models.resnet34)


class ResNet50(ResNet):
    """50 layers in bottleneck blocks, 2048 features."""

    make = staticmethod(models.resnet50)
