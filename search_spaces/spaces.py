"""The spaces, by name: what `--space` may be. Free of torch.

A space is a class derived from `Space`, whose defaults say what is chosen from. Its size is the preset's.
"""

from __future__ import annotations

from dataclasses import dataclass

from nas_osr.plugins import load_class
from nas_osr.search_spaces.operations import ACTIVATIONS, OPERATIONS
from nas_osr.search_spaces.space import POOLINGS, Space

SPACES: dict[str, str] = {
    "paper": "nas_osr.search_spaces.space:Space",
    "wide": "nas_osr.search_spaces.spaces:Wide",
}


@dataclass(frozen=True)
class Wide(Space):
    """All operations in every cell, and all that can be chosen of the network as a whole."""

    operations: tuple[str, ...] = tuple(OPERATIONS)
    stems: tuple[str, ...] = ("strided", "pooled", "whitened")  # by name: another one changes all draws
    activations: tuple[str, ...] = ACTIVATIONS
    poolings: tuple[str, ...] = POOLINGS
    outputs: tuple[int, ...] = (1, 2)
    widths: tuple[float, ...] = (0.5, 1.0)
    two_inputs: bool = True


def space_class(name: str) -> type[Space]:
    """The space of this name or dotted path (see `nas_osr.plugins.load_class`); UserError when there is none."""
    return load_class("space", name, SPACES, Space)
