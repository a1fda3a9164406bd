"""What an architecture is chosen from: the cells, edges and paths of the hierarchical space, and its description.

The space (NAS-OSR, section 3.1): L layers over the scales 0, 1, 2 (1/4, 1/8, 1/16 of the image side). Layer l has a
cell at scale s iff the stem, which ends at scale 0, reaches it and an enabled branch can still be reached from it. A
cell feeds the next layer at its own scale (keep) and at the next coarser one (halve). Free of torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from nas_osr.errors import UserError, show
from nas_osr.plugins import check_name
from nas_osr.search_spaces import paper
from nas_osr.search_spaces.operations import ACTIVATIONS, NONE, OPERATIONS
from nas_osr.search_spaces.stems import STEMS

Cell = tuple[int, int]
"""(layer, scale), both counted from 0."""

NUM_SCALES = 3
MAX_LAYERS = 64
MIN_CHANNELS = 4  # a stem begins with a quarter of them
MAX_CHANNELS = 8192
MAX_OPERATIONS = 16
MAX_CANDIDATES = 16  # of a choice of the network as a whole
POOLINGS = ("average", "maximum", "both")


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


def count_paths(cell: Cell) -> int:
    """How many paths lead from the stem to a cell: C(layer, scale)."""
    return math.comb(*cell)


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

    A space of one's own is a subclass with other defaults, named by its dotted path; a search works on the plain value.

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
    # Choices of the network as a whole; where a field names no candidate, there is no such choice.
    stems: tuple[str, ...] = ()
    "stems to choose from, in place of `stem`."
    activations: tuple[str, ...] = ()
    "activations to choose from, names of `ACTIVATIONS`, in place of leaky_relu."
    poolings: tuple[str, ...] = ()
    "how maps are pooled under the head: names of `POOLINGS`, in place of average; `both` is the mean of the two."
    outputs: tuple[int, ...] = ()
    "scales of which one is the network's output, in place of 2; only where `branches` is 2 alone."
    widths: tuple[float, ...] = ()
    "factors, in (0, 1], on the channels of a scale, of which each scale chooses its own, in place of 1."
    two_inputs: bool = False
    "whether a cell on a path may take the sum of both its in-edges, in place of one."

    def __post_init__(self) -> None:
        for name in ("operations", "stems", "activations", "poolings"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("branches", "outputs", "widths"):
            object.__setattr__(self, name, tuple(sorted(getattr(self, name))))
        if not NUM_SCALES <= self.layers <= MAX_LAYERS:
            raise UserError(f"layers must be from {NUM_SCALES} to {MAX_LAYERS}, got {show(self.layers)}")
        if not MIN_CHANNELS <= self.channels <= MAX_CHANNELS:
            raise UserError(f"channels must be from {MIN_CHANNELS} to {MAX_CHANNELS}, got {show(self.channels)}")
        if not 1 <= len(self.operations) <= MAX_OPERATIONS:
            raise UserError(f"operations must be 1 to {MAX_OPERATIONS} names, got {len(self.operations)}")
        _check_different("operations", self.operations)
        for operation in self.operations:
            check_name("operation", operation, OPERATIONS, "operations: ")
        if self.operations == (NONE,):
            raise UserError(f"operations must name one that computes something beside {NONE}")
        check_name("stem", self.stem, STEMS, "stem: ")
        scales = set(self.branches)
        if NUM_SCALES - 1 not in scales or not scales <= set(range(NUM_SCALES)) or len(scales) < len(self.branches):
            raise UserError(f"branches must contain 2 and otherwise only 0 and 1, got {list(self.branches)}")
        self._check_choices()

    def _check_choices(self) -> None:
        for stem in self.stems:
            check_name("stem", stem, STEMS, "stems: ")
        for field, known in (("activations", ACTIVATIONS), ("poolings", POOLINGS), ("outputs", (1, 2))):
            for value in getattr(self, field):
                if value not in known:
                    raise UserError(f"{field}: unknown {show(value)}: choose from {', '.join(map(str, known))}")
        for width in self.widths:
            if not 0 < width <= 1 or (self.channels * width) % MIN_CHANNELS:
                raise UserError(
                    f"widths must lie in (0, 1] and make channels {self.channels} a multiple of {MIN_CHANNELS}, "
                    f"got {show(width)}"
                )
        for field in ("stems", "activations", "poolings", "outputs", "widths"):
            _check_different(field, getattr(self, field))
            if len(getattr(self, field)) > MAX_CANDIDATES:
                raise UserError(f"{field} must be at most {MAX_CANDIDATES}, got {len(getattr(self, field))}")
        if self.outputs and len(self.branches) > 1:
            raise UserError("outputs can be chosen only where branches is 2 alone: leave one of them out")

    @property
    def choices(self) -> dict[str, tuple[Any, ...]]:
        """The candidates of each choice of the network as a whole, by its name; none in the paper's space."""
        found = {
            "stem": self.stems,
            "activation": self.activations,
            "pooling": self.poolings,
            "output": self.outputs,
            **{f"width_{scale}": self.widths for scale in range(max(self.ends) + 1)},
        }
        return {name: candidates for name, candidates in found.items() if candidates}

    @property
    def chooses(self) -> bool:
        """Whether there is anything to choose beside paths and operations."""
        return bool(self.choices) or self.two_inputs

    @property
    def ends(self) -> tuple[int, ...]:
        """The scales at which a path may end, sorted."""
        return self.outputs or self.branches

    @property
    def cells(self) -> list[Cell]:
        """See `cells`."""
        return cells(self.layers, self.ends)

    @property
    def edges(self) -> list[tuple[Cell, Cell]]:
        """See `edges`."""
        return edges(self.layers, self.ends)

    @property
    def narrows(self) -> bool:
        """Whether a scale may have fewer channels than the space's."""
        return any(width != 1 for width in self.widths)

    @property
    def selectable(self) -> tuple[str, ...]:
        """The operations that a found network may have: all but `none`, which only weighs in a supernet."""
        return tuple(name for name in self.operations if name != NONE)


def _check_different(field: str, names: Sequence[Any]) -> None:
    if len(set(names)) < len(names):
        raise UserError(f"{field} must be different names, got {', '.join(map(show, names))}")
