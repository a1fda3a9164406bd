"""The interface of every baseline network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from nas_osr.search_spaces.blocks import run_block
from nas_osr.search_spaces.encoder import Normalise


class Network(nn.Module):
    """An encoder with fresh weights (from torch's global generator).

    Subclasses take these arguments, make their layers in `build`, and implement `forward`: images [B, C, H, W] in
    [0, 1], which it normalises first, to `nas_osr.outputs.Features`. `branches[2]` is the map under the heads, whatever
    its resolution; `intermediate` has one at 1/2, 1/4 and 1/8 of the image's (scales -1, 0, 1) for the objectives that
    look at them.

    Args:
        image_channels: 1 or 3.
        mean, std: of each channel.
        image_shape: (C, H, W).

    Attributes:
        smallest_side: of images, in pixels, where a network needs more than every encoder does.
        config_class: the dataclass of its settings, for `NAME:setting=value,...`; None of one without any.
        config: an instance of it.
        checkpointing: see `nas_osr.search_spaces.blocks.run_block`.
    """

    smallest_side: ClassVar[int] = 0
    config_class: ClassVar[type | None] = None
    config: ClassVar[Any] = None
    checkpointing: bool = False

    def __init__(
        self, image_channels: int, mean: Sequence[float], std: Sequence[float], image_shape: tuple[int, int, int]
    ) -> None:
        super().__init__()
        self.normalise = Normalise(mean, std)
        self.build(image_channels, image_shape)

    def build(self, image_channels: int, image_shape: tuple[int, int, int]) -> None:
        """Set all layers as attributes."""

    def in_turn(self, images: Tensor, *blocks: nn.Module) -> list[Tensor]:
        """What each block makes of the one before, the first of `images` [B, C, H, W] in [0, 1], normalised."""
        x = self.normalise(images)
        return [x := run_block(block, x, self.checkpointing) for block in blocks]
