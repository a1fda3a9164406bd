"""Architectures at random, and at random near another one; what a strategy needs that learns nothing of a space."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from nas_osr.search_spaces.architectures.architecture import Architecture, Branch, inconsistent_cell
from nas_osr.search_spaces.architectures.canonical import canonical
from nas_osr.search_spaces.space import Space, all_paths

Way = tuple[int, ...]


def sample_architecture(space: Space, seed: int = 0) -> Architecture:
    """A random architecture, uniform over the different networks of the space: each has one canonical form, and
    descriptions are drawn until one is such a form.

    The same arguments give the same architecture.
    """
    generator = random.Random(seed)
    while True:
        drawn = _draw(space, generator)
        if drawn is not None and canonical(drawn) == drawn:
            return replace(drawn, found={"strategy": "random", "seed": seed})


def _draw(space: Space, generator: random.Random) -> Architecture | None:
    """A description, uniform over all: paths, then each cell's operation; None where the paths do not agree."""
    choices = {name: generator.choice(candidates) for name, candidates in space.choices.items()}
    if space.outputs:
        path = generator.choice([path for end in space.outputs for path in all_paths(space.layers, end)])
        choices["output"] = path[-1]
        paths = {path[-1]: path}
    else:
        paths = {branch: generator.choice(all_paths(space.layers, branch)) for branch in space.branches}
    chosen = {cell: generator.choice(space.selectable) for cell in space.cells}
    found = {branch: Branch(path, tuple(chosen[cell] for cell in enumerate(path))) for branch, path in paths.items()}
    return Architecture(space, found, choices=choices) if inconsistent_cell(found) is None else None


def mutate_architecture(architecture: Architecture, seed: int) -> Architecture:
    """An architecture of the same space that differs in one thing, drawn from the seed; `found` is empty.

    The thing is drawn first, each as likely as another: the operation of one cell on a path; the path of one branch, on
    which one halving moves (and the output may become another, where the space lets it); or one choice of the network
    as a whole. Then what it becomes. On a moved path a cell that was there before keeps its operation, another takes
    that of its layer. The result may compute the same as before: see `canonical`.

    Raises:
        ValueError: the space has no other architecture.
    """
    space, generator = architecture.space, random.Random(seed)
    things: list[Sequence[Any]] = [
        [(cell, other) for other in space.selectable if other != operation]
        for cell, operation in architecture.chosen_cells().items()
    ]
    things += [_moved(architecture, scale) for scale in architecture.branches]
    things += [
        [(name, other) for other in candidates if other != architecture.choices[name]]
        for name, candidates in space.choices.items()
        if name != "output"
    ]
    things = [changes for changes in things if changes]
    if not things:
        raise ValueError("the space has one architecture only")
    change = generator.choice(generator.choice(things))
    if isinstance(change, Architecture):
        return change
    where, value = change
    if isinstance(where, str):
        return replace(architecture, choices={**architecture.choices, where: value}, found={})
    operations = {**architecture.chosen_cells(), where: value}
    branches = {
        scale: Branch(way.path, tuple(operations[cell] for cell in enumerate(way.path)))
        for scale, way in architecture.branches.items()
    }
    return replace(architecture, branches=branches, found={})


def _moved(architecture: Architecture, scale: int) -> list[Architecture]:
    """The architectures whose branch at this scale goes the nearest other ways."""
    space, before = architecture.space, architecture.branches[scale]
    known = architecture.chosen_cells()
    found = []
    for end in space.outputs or (scale,):
        for path in all_paths(space.layers, end):
            # one halving is somewhere else; or there is one more or one less
            if len(_halvings(path) ^ _halvings(before.path)) != (2 if end == scale else 1):
                continue
            operations = tuple(known.get(cell, before.operations[cell[0]]) for cell in enumerate(path))
            branches = {name: way for name, way in architecture.branches.items() if name != scale}
            branches[end] = Branch(path, operations)
            if inconsistent_cell(branches) is None:
                choices = {**architecture.choices, **({"output": end} if space.outputs else {})}
                found.append(replace(architecture, branches=branches, choices=choices, found={}))
    return found


def _halvings(path: Way) -> set[int]:
    """The layers of a path before which the scale rises."""
    return {layer for layer, (here, there) in enumerate(pairwise(path)) if there > here}
