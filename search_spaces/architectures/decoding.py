"""From the weights of a search to an architecture: the best path, the strongest operations on it, and other choices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from nas_osr.errors import UserError
from nas_osr.search_spaces.architectures.architecture import Architecture, Branch
from nas_osr.search_spaces.operations import NONE
from nas_osr.search_spaces.space import Cell, Space, all_paths, edges, mixing_cells, predecessors

_UNITS_PER_NAT = 1 << 40
_COST_OF_ZERO = 1_000_000 * _UNITS_PER_NAT  # more than any path without a zero can cost


@dataclass(frozen=True)
class ArchitectureWeights:
    """What a search learnt about every cell of the space."""

    alpha: dict[Cell, tuple[float, ...]]
    "for each cell the probabilities of the operations, in the space's order; they sum to 1."
    beta: dict[Cell, tuple[float, float]]
    "for each cell with two in-edges the probabilities (from the finer scale, from the same scale)."
    gamma: dict[str, tuple[float, ...]] = field(default_factory=dict)
    "for each choice of the network as a whole the probabilities of the candidates, in the space's order."
    join: dict[Cell, tuple[float, float]] = field(default_factory=dict)
    "for each cell with two in-edges the probabilities (one input, both), where the space has such a choice."


def name_cell(cell: Cell) -> str:
    """The cell's key in files and graphs: "layer/scale"."""
    return f"{cell[0]}/{cell[1]}"


def format_way(way: Mapping[str, Any]) -> str:
    """A way through the cells of a space, as `Architecture.describe` has it: `0:conv 1:skip`."""
    return " ".join(f"{scale}:{name}" for scale, name in zip(way["path"], way["operations"], strict=True))


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


def strongest_path(layers: int, branch: int, beta: Mapping[Cell, tuple[float, float]]) -> tuple[int, ...]:
    """The path to `branch` by the larger beta of each cell on its own, from the end backwards (as DARTS decodes).

    Not the most probable one: a cell with more paths behind it is not preferred for that. Of equal betas the finer
    scale, so that it halves late. Paths of several branches agree about every cell that they share.
    """
    path = [branch]
    for layer in range(layers - 1, 0, -1):
        sources = predecessors((layer, path[0]))
        finer = in_probability((layer, path[0]), True, beta) >= in_probability((layer, path[0]), False, beta)
        path.insert(0, sources[0 if finer or len(sources) == 1 else 1][1])
    return tuple(path)


PATHS = {"best_path": best_path, "argmax": strongest_path}
"""How a path is found from betas, by the name of the discretisation."""


def path_chances(space: Space, beta: Mapping[Cell, tuple[float, float]]) -> dict[str, dict[str, float | None]]:
    """How likely the chosen path to each output is among all to it, and the next likely; None where there is one."""
    found = {}
    for end in space.ends:
        steps = {step: in_probability(step[1], step[1][1] > step[0][1], beta) for step in edges(space.layers, [end])}
        paths = [pairwise(enumerate(path)) for path in all_paths(space.layers, end)]
        chances = sorted((math.prod(steps[step] for step in path) for path in paths), reverse=True)
        found[str(end)] = {"chosen": chances[0], "runner_up": chances[1] if len(chances) > 1 else None}
    return found


def decode(space: Space, weights: ArchitectureWeights, discretisation: str = "best_path") -> Architecture:
    """The most probable of each: choices of the network, path of each branch, second inputs, operation of each cell.

    A path is found as a whole (`best_path`) or cell by cell (`argmax`), see `PATHS`.

    The way to a second input is the best path to where it comes from, which agrees with the other best paths.
    Of equally probable ones the first in the space; `none` is no operation that a network has. Raises ValueError for a
    weight that is not finite, or for more or fewer than there are candidates.
    """
    choices = {
        name: candidates[_strongest(weights.gamma[name], f"gamma of {name}", candidates)]
        for name, candidates in space.choices.items()
    }

    def way(path: tuple[int, ...]) -> Branch:
        strongest = (
            _strongest(weights.alpha[cell], f"alpha of cell {name_cell(cell)}", space.operations)
            for cell in enumerate(path)
        )
        return Branch(path, tuple(space.operations[index] for index in strongest))

    ends = (choices["output"],) if space.outputs else space.branches
    find_path = PATHS[discretisation]
    paths = {end: find_path(space.layers, end, weights.beta) for end in ends}
    joins = {}
    for path in paths.values():
        for cell in enumerate(path):
            one, both = weights.join.get(cell, (1.0, 0.0))
            for layer, scale in predecessors(cell) if both > one else ():
                if path[layer] != scale:
                    joins[cell] = way(find_path(layer + 1, scale, weights.beta))
    return Architecture(space, {end: way(path) for end, path in paths.items()}, choices=choices, joins=joins)


def _strongest(weights: Sequence[float], what: str, candidates: Sequence[Any]) -> int:
    if len(weights) != len(candidates) or not all(map(math.isfinite, weights)):
        raise ValueError(f"{what}: expected {len(candidates)} finite numbers")
    return max((i for i, name in enumerate(candidates) if name != NONE), key=lambda i: (float(weights[i]), -i))


def weights_from_record(record: Mapping[str, Any], space: Space, where: str = "history") -> ArchitectureWeights | None:
    """The weights in one record of `history.jsonl`, or None when it has neither alpha nor beta.

    Args:
        record: `{"alpha": {"l/s": {operation: p}}, "beta": {"l/s": {"finer": p, "same": p}}, "gamma": {choice:
            {candidate: p}}, "join": {"l/s": {"one": p, "both": p}}}` among other fields, the keys in any order; a beta
            of a cell with one in-edge is passed over, and so are gamma and join where the space has no such choice.
        where: names the record in messages.

    Raises:
        UserError: names the field that is missing or out of range.
    """
    if record.get("alpha") is None and record.get("beta") is None:
        return None
    alpha = {cell: _probabilities(record, "alpha", name_cell(cell), space.operations, where) for cell in space.cells}
    beta = {
        cell: _probabilities(record, "beta", name_cell(cell), ("finer", "same"), where)
        for cell in mixing_cells(space.layers, space.ends)
    }
    gamma = {
        name: _probabilities(record, "gamma", name, [str(candidate) for candidate in candidates], where)
        for name, candidates in space.choices.items()
    }
    join = {
        cell: _probabilities(record, "join", name_cell(cell), ("one", "both"), where)
        for cell in (beta if space.two_inputs else ())
    }
    pairs = ({cell: (first, second) for cell, (first, second) in found.items()} for found in (beta, join))
    return ArchitectureWeights(alpha, next(pairs), gamma, next(pairs))


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
    record: Mapping[str, Any], kind: str, key: str, names: Sequence[str], where: str
) -> tuple[float, ...]:
    """`record[kind][key]` as a tuple in the order of `names`, checked to be probabilities that sum to 1."""
    group = record.get(kind)
    what = f"{where}: {kind} of {'' if kind == 'gamma' else 'cell '}{key}"
    values = group.get(key) if isinstance(group, Mapping) else None
    if not isinstance(values, Mapping) or set(values) != set(names):
        raise UserError(f"{what}: expected probabilities of {', '.join(names)}")
    for name in names:
        if isinstance(values[name], bool) or not isinstance(values[name], int | float) or not 0 <= values[name] <= 1:
            raise UserError(f"{what}: {name} is not a probability")
    if not math.isclose(sum(values.values()), 1.0, abs_tol=1e-3):
        raise UserError(f"{what}: the probabilities do not sum to 1")
    return tuple(float(values[name]) for name in names)
