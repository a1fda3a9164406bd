"""Architectures at random, and at random near another one; what a strategy needs that learns nothing of a space."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from nas_osr.search_spaces.architectures.architecture import Architecture, Branch, inconsistent_cell
from nas_osr.search_spaces.architectures.canonical import canonical
from nas_osr.search_spaces.space import Cell, Space, all_paths, predecessors

Way = tuple[int, ...]


def sample_architecture(space: Space, seed: int = 0) -> Architecture:
    """A random architecture, uniform over the different networks of the space: each has one canonical form, and
    descriptions are drawn until one is such a form.

    The same arguments give the same architecture. Where cells may have two inputs, each that can has them with
    probability 1/2, by a way that is uniform over those that agree with the others; uniform is then what is left.
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
    if inconsistent_cell(found.values()) is not None:
        return None
    architecture = Architecture(space, found, choices=choices)
    if space.two_inputs:
        for cell in sorted({cell for path in paths.values() for cell in enumerate(path)}):
            joined = _joined(architecture, cell, chosen)
            if joined and generator.random() < 1 / 2:
                architecture = generator.choice(joined)
    return architecture


def _joined(architecture: Architecture, cell: Cell, operations: Mapping[Cell, str]) -> list[Architecture]:
    """The architecture with a second input for a cell on a path, once for each way to it that agrees with the others.

    Args:
        operations: of the cells that are not there yet; others have that of their layer on the first branch.
    """
    taken = {source for source, target in architecture.path_edges() if target == cell}
    found, first = [], next(iter(architecture.branches.values())).operations
    known = {**operations, **architecture.chosen_cells()}
    for layer, scale in predecessors(cell) if taken else ():
        for path in all_paths(layer + 1, scale) if (layer, scale) not in taken else ():
            way = Branch(path, tuple(known.get(there, first[there[0]]) for there in enumerate(path)))
            if inconsistent_cell([*architecture.ways(), way]) is None:
                found.append(replace(architecture, joins={**architecture.joins, cell: way}))
    return found


def mutate_architecture(architecture: Architecture, seed: int) -> Architecture:
    """An architecture of the same space that differs in one thing, drawn from the seed; `found` is empty.

    The thing is drawn first, each as likely as another: the operation of one cell on a path; the path of one branch, on
    which one halving moves (and the output may become another, where the space lets it); whether one cell has two
    inputs; or one choice of the network as a whole. Then what it becomes. On a new way a cell that was there before
    keeps its operation, another takes that of its layer; second inputs that a moved path leaves no place for are gone.
    The result may compute the same as before: see `canonical`.

    Raises:
        ValueError: the space has no other architecture.
    """
    space, generator = architecture.space, random.Random(seed)
    things: list[Sequence[Any]] = [
        [(cell, other) for other in space.selectable if other != operation]
        for cell, operation in architecture.chosen_cells().items()
    ]
    things += [_moved(architecture, scale) for scale in architecture.branches]
    if space.two_inputs:
        on_paths = {cell for way in architecture.branches.values() for cell in enumerate(way.path)}
        things += [_toggled(architecture, cell) for cell in sorted(on_paths)]
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

    def renewed(ways: Mapping[Any, Branch]) -> dict[Any, Branch]:
        return {key: Branch(way.path, tuple(operations[c] for c in enumerate(way.path))) for key, way in ways.items()}

    return replace(architecture, branches=renewed(architecture.branches), joins=renewed(architecture.joins), found={})


def _toggled(architecture: Architecture, cell: Cell) -> list[Architecture]:
    """The architecture without the second input of a cell on a path, or with one."""
    if cell in architecture.joins:
        others = {key: way for key, way in architecture.joins.items() if key != cell}
        return [replace(architecture, joins=others, found={})]
    return _joined(replace(architecture, found={}), cell, {})


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
            if inconsistent_cell(branches.values()) is None:
                choices = {**architecture.choices, **({"output": end} if space.outputs else {})}
                moved = replace(architecture, branches=branches, choices=choices, joins={}, found={})
                for cell, way in architecture.joins.items():
                    moved = next((other for other in _joined(moved, cell, known) if other.joins[cell] == way), moved)
                found.append(moved)
    return found


def _halvings(path: Way) -> set[int]:
    """The layers of a path before which the scale rises."""
    return {layer for layer, (here, there) in enumerate(pairwise(path)) if there > here}
