"""What an architecture is chosen from: the cells, edges and paths of the hierarchical space, and its description.

The space (NAS-OSR, section 3.1): L layers over the scales 0, 1, 2 (1/4, 1/8, 1/16 of the image side). Layer l has a
cell at scale s iff the stem, which ends at scale 0, reaches it and an enabled branch can still be reached from it. A
cell feeds the next layer at its own scale (keep) and at the next coarser one (halve). Free of torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from nas_osr.errors import UserError, show
from nas_osr.plugins import check_name
from nas_osr.search_spaces import paper
from nas_osr.search_spaces.operations import OPERATIONS
from nas_osr.search_spaces.stems import STEMS

Cell = tuple[int, int]
"""(layer, scale), both counted from 0."""

NUM_SCALES = 3
MAX_LAYERS = 64
MIN_CHANNELS = 4  # a stem begins with a quarter of them
MAX_CHANNELS = 8192
MAX_OPERATIONS = 16


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
class Space:
    """What an architecture is chosen from: the one description, of a request, a supernet and an architecture file.

    Raises:
        UserError: names the field that is out of range.
    """

    layers: int = paper.LAYERS
    "number of cell layers L, 3 to 64."
    channels: int = paper.CHANNELS
    "C at 1/4 resolution, 4 to 8192; the scales 1/8 and 1/16 have 2C and 4C."
    operations: tuple[str, ...] = paper.OPERATIONS
    """the candidates of every cell, 1 to 16: names of `nas_osr.search_spaces.operations.OPERATIONS`, or dotted paths of
    a user's own classes (never imported here)."""
    branches: tuple[int, ...] = paper.BRANCHES
    "scales whose last map leaves the encoder, sorted; 2 (1/16) always, 0 and 1 feed the decoder."
    stem: str = paper.STEM
    "how images come to 1/4 resolution: a name of `nas_osr.search_spaces.stems.STEMS`, or a dotted path."

    def __post_init__(self) -> None:
        object.__setattr__(self, "operations", tuple(self.operations))
        object.__setattr__(self, "branches", tuple(sorted(self.branches)))
        if not NUM_SCALES <= self.layers <= MAX_LAYERS:
            raise UserError(f"layers must be from {NUM_SCALES} to {MAX_LAYERS}, got {show(self.layers)}")
        if not MIN_CHANNELS <= self.channels <= MAX_CHANNELS:
            raise UserError(f"channels must be from {MIN_CHANNELS} to {MAX_CHANNELS}, got {show(self.channels)}")
        if not 1 <= len(self.operations) <= MAX_OPERATIONS:
            raise UserError(f"operations must be 1 to {MAX_OPERATIONS} names, got {len(self.operations)}")
        if len(set(self.operations)) < len(self.operations):
            raise UserError(f"operations must be different names, got {', '.join(map(show, self.operations))}")
        for operation in self.operations:
            check_name("operation", operation, OPERATIONS, "operations: ")
        check_name("stem", self.stem, STEMS, "stem: ")
        scales = set(self.branches)
        if NUM_SCALES - 1 not in scales or not scales <= set(range(NUM_SCALES)) or len(scales) < len(self.branches):
            raise UserError(f"branches must contain 2 and otherwise only 0 and 1, got {list(self.branches)}")
