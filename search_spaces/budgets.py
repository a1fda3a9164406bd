"""Hard limits on the size of a network, and the most probable architecture of a search within them.

A network's parameters and multiply-accumulates are the sums of those of its pieces: the stem, each form of each cell,
and the neck before the heads. So they are known without building one, and the best choice of operations within a
budget is found exactly, by dynamic programming over the cells.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import nn

from nas_osr.cost.steps import count_flops
from nas_osr.data.sources.base import Shape
from nas_osr.errors import UserError
from nas_osr.search_spaces.architectures.architecture import Architecture, Branch, inconsistent_cell
from nas_osr.search_spaces.architectures.decoding import ArchitectureWeights, decode, in_probability
from nas_osr.search_spaces.ends import BOTTOM, make_neck
from nas_osr.search_spaces.operations import operation_class
from nas_osr.search_spaces.space import Cell, Space, all_paths, edges
from nas_osr.search_spaces.stems import stem_class

UNLIKELY = -1e6  # the logarithm of a probability of 0: less than any sum of others


class Sizes(NamedTuple):
    """Of a network or a piece of one, without heads."""

    parameters: int
    "how many numbers are learned."
    macs: int
    "multiply-accumulates of convolutions and matrix products for one image."

    def plus(self, other: Sizes) -> Sizes:
        """Of both together."""
        return Sizes(self.parameters + other.parameters, self.macs + other.macs)


@dataclass(frozen=True)
class Budget:
    """What a network may have at most, without its heads.

    Attributes:
        image_shape: (channels, height, width) of the images that it sees.
        parameters, macs: the limits; None is no limit.
    """

    image_shape: Shape
    parameters: int | None = None
    macs: int | None = None

    def __bool__(self) -> bool:
        return self.parameters is not None or self.macs is not None

    def admits(self, sizes: Sizes) -> bool:
        """Whether nothing is above its limit."""
        limits = (self.parameters, self.macs)
        return all(limit is None or size <= limit for size, limit in zip(sizes, limits, strict=True))

    def fits(self, architecture: Architecture) -> bool:
        """Whether its network is within the budget."""
        return not self or self.admits(network_sizes(architecture, self.image_shape))

    def check(self, space: Space) -> None:
        """UserError, with what is nearest, when no architecture of the space fits."""
        if not self or best_within(space, even_weights(space), self) is not None:
            return
        cells = (_Filling(Choice(space, choices, paths), self) for choices, paths in outlines(space))
        smallest = Sizes(*(min(sizes) for sizes in zip(*(cell.smallest for cell in cells), strict=True)))
        asked = [
            f"{limit:,} {name} (the least that any has: {least:,})"
            for name, limit, least in zip(("parameters", "MACs"), (self.parameters, self.macs), smallest, strict=True)
            if limit is not None
        ]
        raise UserError(f"no network of the space has at most {' and '.join(asked)}: allow more, or reduce --channels")


@lru_cache(maxsize=4096)
def piece_sizes(make: type[nn.Module], arguments: tuple[int, ...], shape: Shape) -> tuple[Sizes, Shape]:
    """Sizes of `make(*arguments)` on maps [channels, height, width], and the shape of what comes out of it."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.no_grad():
        piece = make(*arguments).eval()
        given = torch.empty(1, *shape)
        found: list[Any] = []
        flops = count_flops(lambda: found.append(piece(given)))
    out = found[0][-1] if isinstance(found[0], tuple) else found[0]  # a stem returns the maps at 1/2 and 1/4
    return Sizes(sum(p.numel() for p in piece.parameters()), flops // 2), tuple(out.shape[1:])


class _Neck(nn.Sequential):
    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__(make_neck(channels_in, channels))


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

    def forms(self) -> dict[Cell, list[int]]:
        """For each cell on a path the strides in which it is built, 1 or 2 or both."""
        found: dict[Cell, set[int]] = {}
        for end, path in self.paths.items():
            for layer, (here, there) in enumerate(zip(path, (*path[1:], end), strict=True)):
                found.setdefault((layer, here), set()).add(1 + there - here)
        return {cell: sorted(strides) for cell, strides in sorted(found.items())}


class _Maps:
    """The shapes of maps in a network, scale by scale, and the sizes of what is not a cell."""

    def __init__(self, like: Architecture, image_shape: Shape) -> None:
        self.like = like
        stem = stem_class(like.stem)
        self.fixed, shape = piece_sizes(stem, (image_shape[0], like.channels(0)), image_shape)
        self.sides = [(shape[1], shape[2])]
        for _ in range(BOTTOM):
            height, width = self.sides[-1]
            self.sides.append((-(-height // 2), -(-width // 2)))
        end = max(like.branches)
        if end < BOTTOM:
            neck = (like.channels(end), like.space.channels << BOTTOM)
            self.fixed = self.fixed.plus(piece_sizes(_Neck, neck, (neck[0], *self.sides[end]))[0])

    def cell(self, operation: str, scale: int, stride: int) -> Sizes:
        """Of one form of a cell."""
        channels = self.like.channels(scale), self.like.channels(scale + stride - 1)
        shape = (channels[0], *self.sides[scale])
        return piece_sizes(operation_class(operation), (*channels, stride), shape)[0]


def network_sizes(architecture: Architecture, image_shape: Shape) -> Sizes:
    """Those of its discrete network, without building it; every operation must have been imported."""
    maps, built = _Maps(architecture, image_shape), {}
    to_cells = [(way, cell[1]) for cell, way in architecture.joins.items()]
    for way, end in [*((branch, end) for end, branch in architecture.branches.items()), *to_cells]:
        for layer, (here, there) in enumerate(zip(way.path, (*way.path[1:], end), strict=True)):
            built[layer, here, 1 + there - here] = way.operations[layer]
    total = maps.fixed
    for (_, scale, stride), operation in built.items():
        total = total.plus(maps.cell(operation, scale, stride))
    return total


def outlines(space: Space) -> Iterator[tuple[dict[str, Any], dict[int, tuple[int, ...]]]]:
    """Every combination of choices of the network as a whole with paths that agree; activation and pooling, which cost
    nothing, are their first candidates."""
    free = ("activation", "pooling")
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
        smallest: the least parameters, and the least multiply-accumulates, that operations can give it.
    """

    def __init__(self, outline: Choice, budget: Budget) -> None:
        self.outline, self.budget = outline, budget
        self.selectable = outline.space.selectable
        self.forms = outline.forms()
        maps = _Maps(outline.with_operations(dict.fromkeys(self.forms, self.selectable[0])), budget.image_shape)
        self.fixed = maps.fixed
        self.sizes = {
            cell: [
                Sizes(*map(sum, zip(*(maps.cell(name, cell[1], stride) for stride in strides), strict=True)))
                for name in self.selectable
            ]
            for cell, strides in self.forms.items()
        }
        self.rest = [Sizes(0, 0)]  # by how many of the last cells: the least that they add
        for sizes in reversed(self.sizes.values()):
            least = Sizes(*(min(column) for column in zip(*sizes, strict=True)))
            self.rest.append(self.rest[-1].plus(least))
        self.smallest = self.fixed.plus(self.rest[-1])

    def best(self, logits: Mapping[Cell, Sequence[float]]) -> tuple[float, Architecture] | None:
        """The operations with the largest sum of these values within the budget; None where none fit."""
        labels: list[tuple[float, Sizes, tuple[int, ...]]] = [(0.0, self.fixed, ())]
        for place, (cell, sizes) in enumerate(self.sizes.items(), start=1):
            rest = self.rest[len(self.sizes) - place]
            grown = [
                (value + logits[cell][index], total.plus(size), (*chosen, index))
                for value, total, chosen in labels
                for index, size in enumerate(sizes)
                if self.budget.admits(total.plus(size).plus(rest))
            ]
            labels = undominated(grown)
        if not labels:
            return None
        value, _, chosen = labels[0]
        operations = {cell: self.selectable[index] for cell, index in zip(self.sizes, chosen, strict=True)}
        return value, self.outline.with_operations(operations)


def undominated(labels: list[tuple[float, Sizes, tuple[int, ...]]]) -> list[tuple[float, Sizes, tuple[int, ...]]]:
    """Those that no other equals or beats in value and both sizes; by falling value, the first of equal ones."""
    kept: list[tuple[float, Sizes, tuple[int, ...]]] = []
    stairs: list[Sizes] = []  # of the kept ones: no size of one is above both of another's
    for label in sorted(labels, key=lambda one: (-one[0], one[1], one[2])):
        size = label[1]
        if any(stair.parameters <= size.parameters and stair.macs <= size.macs for stair in stairs):
            continue
        kept.append(label)
        stairs = [s for s in stairs if not (size.parameters <= s.parameters and size.macs <= s.macs)] + [size]
    return kept


def best_within(space: Space, weights: ArchitectureWeights, budget: Budget) -> Architecture | None:
    """The most probable architecture with one input a cell that fits: the product of the probabilities of its choices,
    of its steps, and of its operations; None where none fits."""
    names = [space.operations.index(name) for name in space.selectable]
    logits = {cell: [_log(alpha[index]) for index in names] for cell, alpha in weights.alpha.items()}
    bounded = []
    for choices, paths in outlines(space):
        steps = {step for path in paths.values() for step in zip(enumerate(path), [*enumerate(path)][1:], strict=False)}
        value = sum(_log(in_probability(there, there[1] > here[1], weights.beta)) for here, there in sorted(steps))
        for name, chosen in choices.items():
            value += _log(weights.gamma[name][space.choices[name].index(chosen)])
        outline = Choice(space, choices, paths)
        bounded.append((value + sum(max(logits[cell]) for cell in outline.forms()), value, outline))
    best: tuple[float, Architecture] | None = None
    for bound, value, outline in sorted(bounded, key=lambda one: -one[0]):
        if best is not None and bound <= best[0]:
            break
        found = _Filling(outline, budget).best(logits)
        if found is not None and (best is None or value + found[0] > best[0]):
            best = value + found[0], found[1]
    if best is None:
        return None
    freely = {
        name: space.choices[name][gamma.index(max(gamma))]
        for name, gamma in weights.gamma.items()
        if name in ("activation", "pooling")
    }
    return replace(best[1], choices={**best[1].choices, **freely})


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
        budget.check(space)
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
