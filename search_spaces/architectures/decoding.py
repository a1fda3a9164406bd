"""From alphas and betas to an architecture: the weights of a search, the best path, the strongest operations on it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from nas_osr.errors import UserError
from nas_osr.search_spaces.architectures.architecture import Branch
from nas_osr.search_spaces.space import Cell, Space, all_paths, cells, edges, mixing_cells, predecessors

_UNITS_PER_NAT = 1 << 40
_COST_OF_ZERO = 1_000_000 * _UNITS_PER_NAT  # more than any path without a zero can cost


@dataclass(frozen=True)
class ArchitectureWeights:
    """What a search learnt about every cell of the space."""

    alpha: dict[Cell, tuple[float, ...]]
    "for each cell the probabilities of the operations, in the space's order; they sum to 1."
    beta: dict[Cell, tuple[float, float]]
    "for each cell with two in-edges the probabilities (from the finer scale, from the same scale)."


def name_cell(cell: Cell) -> str:
    """The cell's key in files and graphs: "layer/scale"."""
    return f"{cell[0]}/{cell[1]}"


def best_path(layers: int, branch: int, beta: Mapping[Cell, tuple[float, float]]) -> tuple[int, ...]:
    """The path to `branch` with the greatest product of beta: the least sum of -log beta.

    Costs are whole numbers (units of 2**-40 nat), so that paths with the same betas in another order cost exactly the
    same. Of paths of equal cost the lexicographically smallest wins, the one that halves latest. Where every path has
    an edge of probability 0, the fewest such edges win, then the product of the others. Best paths of several branches
    agree about every cell that they share.

    Args:
        beta: (from finer, from same) in [0, 1] of at least every cell with two in-edges on the way to the branch.

    Raises:
        ValueError: a beta lies outside [0, 1] or is NaN.
    """
    costs = {
        (source, target): _cost(in_probability(target, target[1] > source[1], beta))
        for source, target in edges(layers, [branch])
    }
    return min(all_paths(layers, branch), key=lambda path: sum(costs[step] for step in pairwise(enumerate(path))))


def decode(
    space: Space, alpha: Mapping[Cell, Sequence[float]], beta: Mapping[Cell, tuple[float, float]]
) -> dict[int, Branch]:
    """By branch: the best path, and on it each cell's most probable operation (ties: the first in the space)."""
    found = {}
    for branch in space.branches:
        path = best_path(space.layers, branch, beta)
        strongest = []
        for cell in enumerate(path):
            weights = [float(weight) for weight in alpha[cell]]
            if len(weights) != len(space.operations) or not all(map(math.isfinite, weights)):
                raise ValueError(f"alpha of cell {name_cell(cell)}: expected {len(space.operations)} finite numbers")
            strongest.append(space.operations[weights.index(max(weights))])
        found[branch] = Branch(path, tuple(strongest))
    return found


def weights_from_record(record: Mapping[str, Any], space: Space, where: str = "history") -> ArchitectureWeights | None:
    """The weights in one record of `history.jsonl`, or None when it has neither alpha nor beta.

    Args:
        record: `{"alpha": {"l/s": {operation: p}}, "beta": {"l/s": {"finer": p, "same": p}}}` among other fields, the
            keys in any order; a beta of a cell with one in-edge is passed over.
        where: names the record in messages.

    Raises:
        UserError: names the field that is missing or out of range.
    """
    if record.get("alpha") is None and record.get("beta") is None:
        return None
    alpha = {
        cell: _probabilities(record, "alpha", cell, space.operations, where)
        for cell in cells(space.layers, space.branches)
    }
    beta = {
        cell: _probabilities(record, "beta", cell, ("finer", "same"), where)
        for cell in mixing_cells(space.layers, space.branches)
    }
    return ArchitectureWeights(alpha, {cell: (finer, same) for cell, (finer, same) in beta.items()})


def _cost(probability: float) -> int:
    """-log in whole units, 0 for a probability of 1."""
    return round(-math.log(probability) * _UNITS_PER_NAT) if probability > 0 else _COST_OF_ZERO


def in_probability(cell: Cell, from_finer: bool, beta: Mapping[Cell, tuple[float, float]]) -> float:
    """The probability of one in-edge of a cell: its beta, or 1 where there is no choice."""
    if len(predecessors(cell)) < 2:
        return 1.0
    probability = float(beta[cell][0 if from_finer else 1])
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"beta of cell {name_cell(cell)}: {probability} is not a probability")
    return probability


def _probabilities(
    record: Mapping[str, Any], kind: str, cell: Cell, names: Sequence[str], where: str
) -> tuple[float, ...]:
    """`record[kind][cell]` as a tuple in the order of `names`, checked to be probabilities that sum to 1."""
    group = record.get(kind)
    values = group.get(name_cell(cell)) if isinstance(group, Mapping) else None
    if not isinstance(values, Mapping) or set(values) != set(names):
        raise UserError(f"{where}: {kind} of cell {name_cell(cell)}: expected probabilities of {', '.join(names)}")
    for name in names:
        if isinstance(values[name], bool) or not isinstance(values[name], int | float) or not 0 <= values[name] <= 1:
            raise UserError(f"{where}: {kind} of cell {name_cell(cell)}: {name} is not a probability")
    if not math.isclose(sum(values.values()), 1.0, abs_tol=1e-3):
        raise UserError(f"{where}: {kind} of cell {name_cell(cell)}: the probabilities do not sum to 1")
    return tuple(float(values[name]) for name in names)
