"""The stems, by name: how images come to 1/4 resolution. Free of torch until a class is asked for.

A stem is a `torch.nn.Module` that is built as `Stem(image_channels, channels)` and maps normalised images
[B, image_channels, H, W] to two maps: one at half resolution [B, any, H/2, W/2], which some decoders read, and the one
that the cells start from, [B, channels, H/4, W/4].

A new one is a file in this folder and a line in the table; a user's own is named by its dotted path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nas_osr.plugins import load_class

if TYPE_CHECKING:
    from torch import nn

STEMS: dict[str, str] = {
    "strided": "nas_osr.search_spaces.stems.strided:StridedStem",
    "pooled": "nas_osr.search_spaces.stems.pooled:PooledStem",
    "whitened": "nas_osr.search_spaces.stems.whitened:WhitenedStem",
}


def stem_class(name: str, *, import_plugins: bool = False) -> Callable[[int, int], nn.Module]:
    """The stem of this name or dotted path: called with (image_channels, channels), it gives a module.

    `import_plugins` is for names from the user's own command line or configuration; see `nas_osr.plugins.load_class`.
    Raises UserError when there is no such thing.
    """
    from torch import nn

    return load_class("stem", name, STEMS, nn.Module, import_plugins=import_plugins)
