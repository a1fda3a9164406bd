"""The architecture that a search finds: a small typed value over its space, and JSON in and out."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from nas_osr.errors import UserError, show
from nas_osr.files.paths import user_path
from nas_osr.files.storage import replace_file
from nas_osr.files.text import as_fields, as_integer, as_items, as_string, check_json_value, parse_json, read_text
from nas_osr.plugins import load
from nas_osr.search_spaces import paper
from nas_osr.search_spaces.space import NUM_SCALES, Cell, Space

SCHEMA = 1
SPACE_NAME = "hierarchical"
_MAX_FOUND_DEPTH = 8


@dataclass(frozen=True)
class Branch:
    """The way to one output."""

    path: tuple[int, ...]
    "the scale at which each layer's cell sits: first 0, last the branch's scale; each step keeps or adds one."
    operations: tuple[str, ...]
    "the operation of each layer's cell."


@dataclass(frozen=True)
class Architecture:
    """A discrete network of the space: for each enabled branch a path and its operations.

    Branches that share a cell agree on the operation and on the way to it, so that every cell has one input.

    Raises:
        UserError: names the field that is wrong.
    """

    space: Space
    branches: dict[int, Branch]
    "by scale, sorted: the space's."
    found: dict[str, Any] = field(default_factory=dict)
    "where it comes from (strategy, objective, rule, protocol, split, seed, F1, epoch, ...): plain JSON."

    def __post_init__(self) -> None:
        if tuple(sorted(self.branches)) != self.space.branches:
            expected = ", ".join(map(str, self.space.branches))
            raise UserError(f"branches: expected those of the space, {expected}, got {sorted(self.branches)}")
        for scale, branch in self.branches.items():
            _check_branch(self.space, scale, branch)
        if (cell := inconsistent_cell(self.branches)) is not None:
            raise UserError(
                f"branches: two branches share the cell of layer {cell[0]} at scale {cell[1]} but differ in its "
                "operation or in the way to it"
            )
        check_json_value(self.found, "found", _MAX_FOUND_DEPTH)
        object.__setattr__(self, "branches", dict(sorted(self.branches.items())))

    def chosen_cells(self) -> dict[Cell, str]:
        """The operation of every cell on a path."""
        return {cell: way.operations[cell[0]] for way in self.branches.values() for cell in enumerate(way.path)}

    def chosen_edges(self) -> set[tuple[Cell, Cell]]:
        """The steps of all paths, from cell to cell."""
        return {step for way in self.branches.values() for step in pairwise(enumerate(way.path))}

    def to_dict(self) -> dict[str, Any]:
        """The plain value that `architecture.json` holds."""
        space = {
            "name": SPACE_NAME,
            "layers": self.space.layers,
            "channels": self.space.channels,
            "operations": list(self.space.operations),
        }
        if self.space.stem != paper.STEM:  # files of the usual space are as they always were
            space["stem"] = self.space.stem
        branches = {
            str(scale): {"path": list(branch.path), "operations": list(branch.operations)}
            for scale, branch in self.branches.items()
        }
        return {"schema": SCHEMA, "space": space, "branches": branches, "found": self.found}

    def _repr_svg_(self) -> str:
        """Its picture, for a notebook. Raises UserError: there is no program to draw with."""
        # by name: the picture is made of architectures, and what draws is imported only where something is drawn
        return str(load("nas_osr.search_spaces.architectures.picture:draw_architecture")(self))

    @classmethod
    def from_dict(cls, value: Any, where: str) -> Architecture:
        """Check and convert a parsed JSON value; `where` names its origin in messages. Raises UserError."""
        try:
            return _architecture_from(value)
        except UserError as error:
            raise UserError(f"{where}: not an architecture: {error}") from None

    def to_json(self) -> str:
        """The text of `architecture.json`: ASCII, indented, the same bytes for equal architectures."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> Architecture:
        """Parse and check; `where` names the origin in messages. Raises UserError that names the field."""
        return cls.from_dict(parse_json(text, where), where)

    def save(self, path: str | Path) -> None:
        """Write JSON to `path`, whole or not at all. Raises UserError when that is impossible."""
        with replace_file(user_path(path)) as file:
            file.write(self.to_json().encode())

    @classmethod
    def load(cls, path: str | Path) -> Architecture:
        """Read a JSON file. Raises UserError that names the file and the field."""
        return cls.from_json(read_text(path), str(path))


# Checking


def _architecture_from(value: Any) -> Architecture:
    """Convert a parsed JSON value; the constructors then check ranges."""
    top = as_fields(value, "the file", ("schema", "space", "branches", "found"))
    if as_integer(top["schema"], "schema") != SCHEMA:
        raise UserError(f"schema: expected {SCHEMA}, got {show(top['schema'])}")
    description = as_fields(top["space"], "space", ("name", "layers", "channels", "operations"), ("stem",))
    if description["name"] != SPACE_NAME:
        raise UserError(f"space.name: expected {SPACE_NAME!r}, got {show(description['name'])}")
    if not isinstance(top["branches"], dict):
        raise UserError(f"branches: expected an object, got {show(top['branches'])}")
    branches = {}
    for key, item in top["branches"].items():
        if key not in [str(scale) for scale in range(NUM_SCALES)]:
            raise UserError(f'branches: expected the keys "0" to "{NUM_SCALES - 1}", got {show(key)}')
        where = f"branches.{key}"
        branch = as_fields(item, where, ("path", "operations"))
        branches[int(key)] = Branch(
            path=as_items(branch["path"], f"{where}.path", as_integer),
            operations=as_items(branch["operations"], f"{where}.operations", as_string),
        )
    if NUM_SCALES - 1 not in branches:
        raise UserError(f"branches: branch {NUM_SCALES - 1} (1/16) is missing")
    layers = as_integer(description["layers"], "space.layers")
    channels = as_integer(description["channels"], "space.channels")
    operations = as_items(description["operations"], "space.operations", as_string)
    stem = as_string(description.get("stem", paper.STEM), "space.stem")
    try:
        space = Space(layers, channels, operations, tuple(branches), stem)
    except UserError as error:
        raise UserError(f"space.{error}") from None
    if not isinstance(top["found"], dict):
        raise UserError(f"found: expected an object, got {show(top['found'])}")
    return Architecture(space, branches, top["found"])


def _check_branch(space: Space, scale: int, branch: Branch) -> None:
    where = f"branches.{scale}"
    for name, items in (("path", branch.path), ("operations", branch.operations)):
        if len(items) != space.layers:
            raise UserError(f"{where}.{name}: expected {space.layers} entries, one per layer, got {len(items)}")
    if branch.path[0] != 0:
        raise UserError(f"{where}.path: must start at scale 0, got {show(branch.path[0])}")
    for layer in range(1, space.layers):
        if branch.path[layer] - branch.path[layer - 1] not in (0, 1):
            raise UserError(f"{where}.path[{layer}]: each step keeps the scale or adds one")
    if branch.path[-1] != scale:
        raise UserError(f"{where}.path: must end at scale {scale}, got {show(branch.path[-1])}")
    for layer, operation in enumerate(branch.operations):
        if operation not in space.operations:
            raise UserError(f"{where}.operations[{layer}]: {show(operation)} is not one of space.operations")


def inconsistent_cell(branches: dict[int, Branch]) -> Cell | None:
    """The first cell that two branches share without agreeing on the operations and the path up to it."""
    ways: dict[Cell, tuple[object, object]] = {}
    for _, branch in sorted(branches.items()):
        for cell in enumerate(branch.path):
            way = branch.path[: cell[0]], branch.operations[: cell[0] + 1]
            if ways.setdefault(cell, way) != way:
                return cell
    return None
