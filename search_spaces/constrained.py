"""The most probable architecture of a search within a budget, found exactly, by dynamic programming over the cells."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from nas_osr.data.sources.base import Shape
from nas_osr.errors import UserError
from nas_osr.search_spaces.architectures.architecture import Architecture, Branch, inconsistent_cell
from nas_osr.search_spaces.architectures.decoding import ArchitectureWeights, decode, format_way, in_probability
from nas_osr.search_spaces.budgets import FREE, Budget, Sizes, network_sizes, sum_pieces
from nas_osr.search_spaces.network import lay_out
from nas_osr.search_spaces.pieces import STEM, Blocks, Piece, Pieces, forms_of
from nas_osr.search_spaces.space import Cell, Space, all_paths, edges

SIZES_TOLD: tuple[Callable[[Any], str], ...] = (
    "{:,} parameters".format,
    "{:,} MACs".format,
    "{:.3g} ms an image".format,
    "{:,} bytes at prediction".format,
)
UNLIKELY = -1e6  # the logarithm of a probability of 0: less than any sum of others


@dataclass(frozen=True)
class Choice:
    """An architecture but for the operations of its cells.

    Attributes:
        choices: of the network as a whole, by name.
        paths: the path to each branch.
    """

    space: Space
    choices: Mapping[str, Any]
    paths: Mapping[int, tuple[int, ...]]

    def with_operations(self, operations: Mapping[Cell, str]) -> Architecture:
        """The architecture."""
        branches = {
            end: Branch(path, tuple(operations[cell] for cell in enumerate(path))) for end, path in self.paths.items()
        }
        return Architecture(self.space, branches, choices=dict(self.choices))

    def with_one(self, operation: str) -> Architecture:
        """The architecture that has this operation everywhere."""
        return self.with_operations({cell: operation for path in self.paths.values() for cell in enumerate(path)})


def space_pieces(space: Space, image_shape: Shape) -> dict[str, Piece]:
    """Every piece that a network of the space may have, by key."""
    found: dict[str, Piece] = {}
    for choices, paths in outlines(space, {"pooling"}):
        for operation in space.selectable:
            like = Choice(space, choices, paths).with_one(operation)
            found |= {piece.key: piece for piece in Blocks(like, image_shape).pieces.values()}
    return found


def outlines(space: Space, free: Collection[str] = FREE) -> Iterator[tuple[dict[str, Any], dict[int, tuple[int, ...]]]]:
    """Every combination of choices of the network as a whole with paths that agree; those that are `free` are their
    first candidates."""
    listed = {name: values[:1] if name in free else values for name, values in space.choices.items()}
    for values in product(*listed.values()):
        choices = dict(zip(listed, values, strict=True))
        ends = (choices["output"],) if space.outputs else space.branches
        for ways in product(*(all_paths(space.layers, end) for end in ends)):
            plain = [Branch(way, (space.selectable[0],) * space.layers) for way in ways]
            if inconsistent_cell(plain) is None:
                yield choices, dict(zip(ends, ways, strict=True))


class _Filling:
    """The operations of the cells of an outline.

    Attributes:
        sizes: by cell those of each operation.
        smallest: the least of each that operations can give it.
    """

    def __init__(self, outline: Choice, budget: Budget) -> None:
        self.outline, self.budget = outline, budget
        self.selectable = outline.space.selectable
        like = outline.with_one(self.selectable[0])
        pieces, forms = Pieces(like, budget.image_shape), forms_of(lay_out(like))
        peaks = Blocks(like, budget.image_shape).peaks() if budget.memory is not None else {}
        ends = [piece for piece in (pieces.stem, pieces.neck()) if piece is not None]
        fixed = sum_pieces(ends, budget.table)
        self.fixed = budget.limited(fixed._replace(activations=max(peaks.get(STEM, 0), peaks.get("neck", 0))))
        self.sizes: dict[Cell, list[Sizes]] = {cell: [] for cell in sorted(forms)}
        for operation in self.selectable:
            if peaks:  # what a cell needs at once does not depend on which operations others have
                peaks = Blocks(outline.with_one(operation), budget.image_shape).peaks()
            for cell, own in self.sizes.items():
                made = [pieces.cell(operation, cell[1], 2 if key.endswith("halve") else 1) for key in forms[cell]]
                peak = max(peaks.get(key, 0) for key in forms[cell])
                own.append(budget.limited(sum_pieces(made, budget.table)._replace(activations=peak)))
        self.rest = [Sizes(0, 0)]  # by how many of the last cells: the least that they add
        for sizes in reversed(self.sizes.values()):
            self.rest.append(self.rest[-1].plus(Sizes(*(min(column) for column in zip(*sizes, strict=True)))))
        self.smallest = self.fixed.plus(self.rest[-1])

    def best(self, logits: Mapping[Cell, Sequence[float]], above: float) -> tuple[float, Architecture] | None:
        """The operations with the largest sum of these values within the budget; None where none fit, or only some
        whose sum is not above a value."""
        hoped = sum(max(logits[cell]) for cell in self.sizes)
        labels = [Label(0.0, self.fixed, ())]
        for place, (cell, sizes) in enumerate(self.sizes.items(), start=1):
            rest = self.rest[len(self.sizes) - place]
            hoped -= max(logits[cell])
            grown = [
                Label(label.value + logits[cell][index], label.sizes.plus(size), (*label.chosen, index))
                for label in labels
                for index, size in enumerate(sizes)
            ]
            labels = undominated(
                [one for one in grown if one.value + hoped > above and self.budget.admits(one.sizes.plus(rest))]
            )
        if not labels:
            return None
        return labels[0].value, self.filled(labels[0])

    def nearest(self, below: tuple[float, float]) -> tuple[tuple[float, float], Architecture] | None:
        """The operations with the least `Budget.excess`, and that; None where none is below this one."""
        labels = [Label(0.0, self.fixed, ())]
        for place, sizes in enumerate(self.sizes.values(), start=1):
            rest = self.rest[len(self.sizes) - place]
            grown = [
                Label(0.0, label.sizes.plus(size), (*label.chosen, index))
                for label in labels
                for index, size in enumerate(sizes)
            ]
            labels = undominated([one for one in grown if self.budget.excess(one.sizes.plus(rest)) < below])
        if not labels:
            return None
        found = min(labels, key=lambda one: self.budget.excess(one.sizes))
        return self.budget.excess(found.sizes), self.filled(found)

    def filled(self, label: Label) -> Architecture:
        """The architecture of operations for all cells."""
        return self.outline.with_operations(
            {cell: self.selectable[index] for cell, index in zip(self.sizes, label.chosen, strict=True)}
        )


class Label(NamedTuple):
    """Operations for the first cells of an outline."""

    value: float
    "how likely they are, as a logarithm."
    sizes: Sizes
    "of the network up to there."
    chosen: tuple[int, ...]
    "which they are."


def undominated(labels: Sequence[Label]) -> list[Label]:
    """Those that no other equals or beats in value and all sizes; by falling value, the first of equal ones."""
    kept: list[Label] = []
    stairs = np.empty((len(labels), len(Sizes._fields)), dtype=np.int64)  # sizes of the kept ones
    for label in sorted(labels, key=lambda one: (-one.value, one.sizes, one.chosen)):
        if not (stairs[: len(kept)] <= label.sizes).all(axis=1).any():
            stairs[len(kept)] = label.sizes
            kept.append(label)
    return kept


def best_within(space: Space, weights: ArchitectureWeights, budget: Budget) -> Architecture | None:
    """The most probable architecture with one input a cell that fits: the product of the probabilities of its choices,
    of its steps, and of its operations; None where none fits."""
    names = [space.operations.index(name) for name in space.selectable]
    logits = {cell: [_log(alpha[index]) for index in names] for cell, alpha in weights.alpha.items()}
    bounded = []
    for choices, paths in outlines(space, budget.free):
        steps = {step for path in paths.values() for step in zip(enumerate(path), [*enumerate(path)][1:], strict=False)}
        value = sum(_log(in_probability(there, there[1] > here[1], weights.beta)) for here, there in sorted(steps))
        for name, chosen in choices.items():
            value += _log(weights.gamma[name][space.choices[name].index(chosen)])
        outline = Choice(space, choices, paths)
        cells = {cell for path in paths.values() for cell in enumerate(path)}
        bounded.append((value + sum(max(logits[cell]) for cell in cells), value, outline))
    best: tuple[float, Architecture] | None = None
    for bound, value, outline in sorted(bounded, key=lambda one: -one[0]):
        if best is not None and bound <= best[0]:
            break
        found = _Filling(outline, budget).best(logits, -math.inf if best is None else best[0] - value)
        if found is not None:
            best = value + found[0], found[1]
    if best is None:
        return None
    freely = {
        name: space.choices[name][gamma.index(max(gamma))]
        for name, gamma in weights.gamma.items()
        if name in budget.free
    }
    return replace(best[1], choices={**best[1].choices, **freely})


def check_budget(budget: Budget, space: Space) -> None:
    """UserError, with what is nearest, when no architecture of the space fits."""
    if not budget or best_within(space, even_weights(space), budget) is not None:
        return
    nearest = nearest_to(space, budget)
    branches = [format_way(way) for way in nearest.describe()["branches"].values()]
    choices = [f"{name} {value}" for name, value in nearest.choices.items() if name not in budget.free]
    sizes = network_sizes(nearest, budget.image_shape, budget.table, memory=budget.memory is not None)
    asked = budget.parameters, budget.macs, None if budget.table is None else budget.latency, budget.memory
    limits = [say(limit) for say, limit in zip(SIZES_TOLD, asked, strict=True) if limit is not None]
    milliseconds = 0.0 if budget.table is None else budget.table.milliseconds(sizes.nanoseconds)
    needs = sizes.parameters, sizes.macs, milliseconds, sizes.memory
    has = [say(need) for say, need, limit in zip(SIZES_TOLD, needs, asked, strict=True) if limit is not None]
    raise UserError(
        f"no network of the space has at most {' and '.join(limits)}: the nearest has {' and '.join(has)} "
        f"({', '.join([*branches, *choices])}): allow more, or reduce --channels"
    )


def nearest_to(space: Space, budget: Budget) -> Architecture:
    """The architecture with one input a cell whose worst excess over a limit is the least, in proportion to it; of
    several the one with the least sum of excesses."""
    fillings = [_Filling(Choice(space, choices, paths), budget) for choices, paths in outlines(space, budget.free)]
    bounded = sorted(((budget.excess(filling.smallest), filling) for filling in fillings), key=lambda one: one[0])
    least, nearest = (math.inf, math.inf), None
    for bound, filling in bounded:
        if bound >= least:
            break
        least, nearest = filling.nearest(least) or (least, nearest)
    assert nearest is not None  # a space has networks
    return nearest


def decode_within(space: Space, weights: ArchitectureWeights, budget: Budget) -> Architecture:
    """What `decode` finds where that fits, else the most probable architecture that does; see `best_within`.

    Raises:
        UserError: none fits.
    """
    found = decode(space, weights)
    if budget.fits(found):
        return found
    within = best_within(space, weights, budget)
    if within is None:
        check_budget(budget, space)
        raise AssertionError("a budget that nothing fits was said to be kept")
    return within


def even_weights(space: Space) -> ArchitectureWeights:
    """Of a search that has learned nothing."""
    alpha = {cell: (1 / len(space.operations),) * len(space.operations) for cell in space.cells}
    beta = {target: (0.5, 0.5) for _, target in edges(space.layers, space.ends)}
    gamma = {name: (1 / len(values),) * len(values) for name, values in space.choices.items()}
    return ArchitectureWeights(alpha, beta, gamma)


def random_weights(space: Space, seed: int) -> ArchitectureWeights:
    """Probabilities drawn uniformly for every choice."""
    generator, even = random.Random(seed), even_weights(space)

    def draw(like: Sequence[float]) -> tuple[float, ...]:
        parts = [generator.expovariate(1.0) for _ in like]
        return tuple(part / sum(parts) for part in parts)

    beta = {cell: (share := generator.random(), 1 - share) for cell in even.beta}
    gamma = {name: draw(values) for name, values in even.gamma.items()}
    return ArchitectureWeights({cell: draw(alpha) for cell, alpha in even.alpha.items()}, beta, gamma)


def _log(probability: float) -> float:
    return math.log(probability) if probability > 0 else UNLIKELY
