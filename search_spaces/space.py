"""What an architecture is chosen from: the cells, edges and paths of the hierarchical space, and its description.

The space (NAS-OSR, section 3.1): L layers over the scales 0, 1, 2 (1/4, 1/8, 1/16 of the image side). Layer l has a
cell at scale s iff the stem, which ends at scale 0, reaches it and an enabled branch can still be reached from it. A
cell feeds the next layer at its own scale (keep) and at the next coarser one (halve).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from nas_osr.errors import UserError, show

Cell = tuple[int, int]
"""(layer, scale), both counted from 0."""

SPACE_NAME = "hierarchical"
BUILT_IN_OPERATIONS = ("skip", "conv", "conv2")
PAPER_STEM = "strided"
STEMS = (PAPER_STEM, "pooled")
NUM_SCALES = 3
MAX_LAYERS = 64
MAX_CHANNELS = 8192
MAX_OPERATIONS = 16
_DOTTED_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)


def cells(layers: int, branches: Sequence[int]) -> list[Cell]:
    """All cells (layer, scale) of the space with these output scales, by layer and then by scale."""
    return [
        (layer, scale)
        for layer in range(layers)
        for scale in range(min(layer, max(branches)) + 1)
        if any(0 <= branch - scale <= layers - 1 - layer for branch in branches)
    ]


def edges(layers: int, branches: Sequence[int]) -> list[tuple[Cell, Cell]]:
    """All edges between cells as (source, target), by target; a target's finer source comes before the same scale."""
    return [(source, target) for target in cells(layers, branches) for source in predecessors(target)]


def predecessors(cell: Cell) -> list[Cell]:
    """The cells that feed this one: from the finer scale (halved), then from the same scale (kept); none in layer 0.

    Whatever the layers and branches, each of them is in the space when `cell` is.
    """
    layer, scale = cell
    return [(layer - 1, s) for s in (scale - 1, scale) if 0 <= s <= layer - 1]


def mixing_cells(layers: int, branches: Sequence[int]) -> list[Cell]:
    """The cells with two in-edges, which are those that have a beta, in the order of `cells`."""
    return [cell for cell in cells(layers, branches) if len(predecessors(cell)) == 2]


def all_paths(layers: int, branch: int) -> list[tuple[int, ...]]:
    """Every path of the space to this branch, C(layers - 1, branch) of them, in lexicographic order."""
    halvings = combinations(range(1, layers), branch)
    return sorted(tuple(sum(h <= layer for h in chosen) for layer in range(layers)) for chosen in halvings)


@dataclass(frozen=True)
class SpaceDescription:
    """What an architecture is chosen from.

    Attributes:
        layers: L, 3 to 64.
        channels: C, the channels at scale 0; scale s has C * 2**s.
        operations: the candidates of every cell: built-in names, or dotted paths of plug-ins (never imported here).
        stem: how images come to 1/4 resolution: "strided" (NAS-OSR's) or "pooled" (3x3 convolutions, then pooling).

    Raises:
        UserError: a field is out of range.
    """

    layers: int
    channels: int
    operations: tuple[str, ...] = BUILT_IN_OPERATIONS
    stem: str = PAPER_STEM
    name: str = SPACE_NAME

    def __post_init__(self) -> None:
        if self.name != SPACE_NAME:
            raise UserError(f"space.name: expected {SPACE_NAME!r}, got {show(self.name)}")
        if self.stem not in STEMS:
            raise UserError(f"space.stem: expected one of {', '.join(STEMS)}, got {show(self.stem)}")
        if not NUM_SCALES <= self.layers <= MAX_LAYERS:
            raise UserError(f"space.layers: expected {NUM_SCALES} to {MAX_LAYERS}, got {show(self.layers)}")
        if not 1 <= self.channels <= MAX_CHANNELS:
            raise UserError(f"space.channels: expected 1 to {MAX_CHANNELS}, got {show(self.channels)}")
        if not 1 <= len(self.operations) <= MAX_OPERATIONS:
            raise UserError(f"space.operations: expected 1 to {MAX_OPERATIONS} names, got {len(self.operations)}")
        if len(set(self.operations)) < len(self.operations):
            raise UserError("space.operations: a name occurs twice")
        for operation in self.operations:
            if operation not in BUILT_IN_OPERATIONS and not (
                len(operation) <= 200 and _DOTTED_PATH.fullmatch(operation)
            ):
                known = ", ".join(BUILT_IN_OPERATIONS)
                raise UserError(f"space.operations: {show(operation)} is neither of {known} nor a dotted path")
