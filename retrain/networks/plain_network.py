"""A small fast network by hand, in the manner of those that learn CIFAR-10 in seconds: what a search must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from torch import Tensor, nn

from nas_osr.configuration import Checked
from nas_osr.objectives.parts.pooling import SHARES, pool_branches
from nas_osr.option_docs import Range
from nas_osr.outputs import Features
from nas_osr.retrain.networks.base import Network
from nas_osr.search_spaces.stems.whitened import Whitening


@dataclass(frozen=True)
class PlainConfig(Checked):
    """What of it can be chosen."""

    width: Annotated[int, Range(1, 4096)] = 48
    "C, the channels of a convolutional stem at full resolution; the three blocks have 2C, 4C and 4C."
    residual: bool = True
    "whether a block ends with a residual pair of convolutions (ResNet-9, Page 2018), not with one (airbench94)."
    whitening: bool = True
    "whether frozen 2x2 filters that whiten the training images are the stem, in place of a 3x3 convolution."
    pooling: Literal["average", "maximum", "both"] = "average"
    "how a channel of the last maps becomes a feature; average leaves it to the objective, whose own choice it may be."


class Plain(Network):
    """A stem, and three blocks that each halve the resolution by maximum pooling; GELU, BatchNorm after pooling.

    After ResNet-9 of David Page (DAWNBench, 2018) and airbench94 (Jordan 2024, "94% on CIFAR-10 in 3.29 seconds"),
    without their scaled logits, which belong to the objective, and with torch's own initial weights.
    """

    config_class = PlainConfig
    config: ClassVar[PlainConfig]

    def build(self, image_channels: int, image_shape: tuple[int, int, int]) -> None:
        width, residual = self.config.width, self.config.residual
        if self.config.whitening:
            whitening = Whitening(image_channels)
            seen, self.stem = whitening.width, nn.Sequential(whitening, nn.GELU())
        else:
            seen, self.stem = width, convolution(image_channels, width)
        self.to_half = Block(seen, 2 * width, residual)
        self.to_quarter = Block(2 * width, 4 * width, residual)
        self.to_eighth = Block(4 * width, 4 * width, residual)

    def forward(self, images: Tensor) -> Features:
        """[B, C, H, W] in [0, 1] -> the last map, and those at 1/2, 1/4 and 1/8."""
        _, half, quarter, eighth = self.in_turn(images, self.stem, self.to_half, self.to_quarter, self.to_eighth)
        pooled = None
        if self.config.pooling != "average":
            pooled = pool_branches({2: eighth}, SHARES[self.config.pooling])
        return Features({2: eighth}, {-1: half, 0: quarter, 1: eighth}, pooled)


class Block(nn.Module):
    """A convolution with maximum pooling, then a residual pair of convolutions, or a single one."""

    def __init__(self, channels_in: int, channels_out: int, residual: bool) -> None:
        super().__init__()
        self.enter = convolution(channels_in, channels_out, nn.MaxPool2d(2))
        further = [convolution(channels_out, channels_out) for _ in range(2 if residual else 1)]
        self.residual, self.further = residual, nn.Sequential(*further)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c, H, W] -> [B, C, H/2, W/2]."""
        x = self.enter(x)
        return x + self.further(x) if self.residual else self.further(x)


def convolution(channels_in: int, channels_out: int, *between: nn.Module) -> nn.Sequential:
    """A 3x3 convolution with what comes between it and its BatchNorm, and GELU."""
    layer = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
    return nn.Sequential(layer, *between, nn.BatchNorm2d(channels_out), nn.GELU())
