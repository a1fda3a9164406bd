"""What operations and stems are made of, and where a network's choices of activation and width reach into them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas_osr.search_spaces.layout import subsample
from nas_osr.search_spaces.operations import ACTIVATIONS
from nas_osr.search_spaces.paper import SLOPE

Weigh = Callable[[], Tensor]
"""The probabilities of a choice's candidates, [n]."""


class Activation(nn.Module):
    """The network's activation, which may work in place; leaky_relu until a network chooses or mixes others."""

    def __init__(self) -> None:
        super().__init__()
        self.name = ACTIVATIONS[0]
        self.mixed: tuple[Sequence[str], Weigh] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Maps of any shape -> the same shape."""
        if self.mixed is None:
            return activate(x, self.name, in_place=True)
        names, weigh = self.mixed
        return mix(weigh(), [activate(x, name, in_place=False) for name in names])


class Mask(nn.Module):
    """Where a supernet hides the channels that a narrower network would not have; does nothing elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed: tuple[Sequence[float], Weigh] | None = None
        self.masks: Tensor | None = None  # [widths, C], made once and for the device, which copies wait for

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        if self.mixed is None:
            return x
        widths, weigh = self.mixed
        channels = x.shape[1]
        if self.masks is None or self.masks.device != x.device:
            masks = torch.zeros(len(widths), channels)
            for row, width in zip(masks, widths, strict=True):
                row[kept(round(width * channels), channels)] = 1
            self.masks = masks.to(x.device)
        mask = (weigh()[:, None] * self.masks).sum(dim=0)  # a product of matrices would be bf16 under autocast
        return x * mask.to(x.dtype).view(1, -1, 1, 1)


def activate(x: Tensor, name: str, in_place: bool) -> Tensor:
    """One of `nas_osr.search_spaces.operations.ACTIVATIONS` (gelu has no form that works in place)."""
    if name == "leaky_relu":
        return F.leaky_relu(x, SLOPE, inplace=in_place)
    if name == "gelu":
        return F.gelu(x)
    return F.relu(x, inplace=in_place) if name == "relu" else F.silu(x, inplace=in_place)


def activation() -> nn.Module:
    """The network's activation, which works in place."""
    return Activation()


def conv_bn(
    channels_in: int, channels_out: int, kernel: int, stride: int, groups: int = 1, dilation: int = 1
) -> nn.Sequential:
    """A convolution with "same" padding and BatchNorm, no activation."""
    padding = dilation * (kernel // 2)
    convolution = nn.Conv2d(channels_in, channels_out, kernel, stride, padding, dilation, groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), Mask())


class Subsample(nn.Module):
    """Every other pixel of every other row, from the one at `start` (0 or 1) on.

    A 1x1 convolution with stride 2 is written as a convolution of these: the same values, while PyTorch 2.15 crashes in
    the backward pass of some of them on the CPU (4 -> 8 channels, channels_last).
    """

    def __init__(self, start: int = 0) -> None:
        super().__init__()
        self.start = start

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H/2, W/2]."""
        return subsample(x, self.start)


# What a network does with its parts


def choose_activation(network: nn.Module, name: str) -> None:
    """Let every `Activation` in a network be this one."""
    for module in network.modules():
        if isinstance(module, Activation):
            module.name = name


def mix_activations(network: nn.Module, names: Sequence[str], weigh: Weigh) -> None:
    """Let every `Activation` in a network be the mean of these, by the probabilities that `weigh` returns."""
    for module in network.modules():
        if isinstance(module, Activation):
            module.mixed = (names, weigh)


def mix_widths(block: nn.Module, widths: Sequence[float], weigh: Weigh) -> None:
    """Let every `Mask` in a block keep each channel by the probability that a network of a drawn width has it."""
    for module in block.modules():
        if isinstance(module, Mask):
            module.mixed = (widths, weigh)


def mix(probabilities: Tensor, maps: Sequence[Tensor]) -> Tensor:
    """The sum of maps of one shape, each times its probability."""
    return sum(p.to(x.dtype) * x for p, x in zip(probabilities, maps, strict=True))  # type: ignore[return-value]


def kept(count: int, channels: int) -> list[int]:
    """The channels of a wider layer that a layer of `count` has: evenly spread.

    Not the first, since a layer may put two halves side by side, each of which gets narrower by itself.
    """
    return [channel * channels // count for channel in range(count)]


def narrow(wide: Tensor, shape: Sequence[int]) -> Tensor:
    """The weights of a narrower layer out of those of a wider one; see `kept`."""
    for dim, (count, channels) in enumerate(zip(shape, wide.shape, strict=True)):
        if count < channels:
            wide = wide.index_select(dim, torch.tensor(kept(count, channels), device=wide.device))
    return wide


def widen(maps: Tensor, channels: int) -> Tensor:
    """[B, count, ...] -> [B, channels, ...]: the maps of a narrower network where a wider one has them, 0 elsewhere."""
    if maps.shape[1] == channels:
        return maps
    wide = maps.new_zeros(maps.shape[0], channels, *maps.shape[2:])
    wide[:, kept(maps.shape[1], channels)] = maps
    return wide
