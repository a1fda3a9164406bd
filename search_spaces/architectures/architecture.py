"""The architecture that a search finds: a small typed value over its space, and JSON in and out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from nas_osr.errors import UserError, show
from nas_osr.files.paths import user_path
from nas_osr.files.storage import replace_file
from nas_osr.files.text import as_fields, as_integer, as_items, as_string, check_json_value, parse_json, read_text
from nas_osr.plugins import load
from nas_osr.search_spaces import paper
from nas_osr.search_spaces.operations import ACTIVATIONS
from nas_osr.search_spaces.space import NUM_SCALES, POOLINGS, Cell, Space, predecessors

SCHEMA = 1  # of the paper's space
CHOOSING = 2  # of a space that chooses of the network as a whole, too
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

    Ways that share a cell agree on the operation and on the way to it, so that every cell has one input; or two, where
    the space lets it and `joins` says so.

    Raises:
        UserError: names the field that is wrong.
    """

    space: Space
    branches: dict[int, Branch]
    "by scale, sorted: the space's."
    found: dict[str, Any] = field(default_factory=dict)
    "where it comes from (strategy, objective, rule, protocol, split, seed, F1, epoch, ...): plain JSON."
    choices: dict[str, Any] = field(default_factory=dict)
    "what is chosen of the network as a whole: for each name in `Space.choices` one of its candidates."
    joins: dict[Cell, Branch] = field(default_factory=dict)
    """for each cell, on the path of a branch, that takes the sum of two inputs: the way to the cell that it has the
    other from, of the layers before it."""

    def __post_init__(self) -> None:
        _check_choices(self.space, self.choices)
        ends = (self.choices["output"],) if self.space.outputs else self.space.branches
        if tuple(sorted(self.branches)) != ends:
            expected = ", ".join(map(str, ends))
            raise UserError(f"branches: expected those of the space, {expected}, got {sorted(self.branches)}")
        for scale, branch in self.branches.items():
            _check_branch(self.space, scale, branch)
        for cell, way in self.joins.items():
            _check_join(self, cell, way)
        if (cell_ := inconsistent_cell(self.ways())) is not None:
            raise UserError(
                f"branches: two branches share the cell of layer {cell_[0]} at scale {cell_[1]} but differ in its "
                "operation or in the way to it"
            )
        check_json_value(self.found, "found", _MAX_FOUND_DEPTH)
        object.__setattr__(self, "branches", dict(sorted(self.branches.items())))
        object.__setattr__(self, "joins", dict(sorted(self.joins.items())))
        chosen = {name: items[items.index(self.choices[name])] for name, items in self.space.choices.items()}
        object.__setattr__(self, "choices", chosen)  # in their order, and as the space writes them

    @property
    def stem(self) -> str:
        """The stem, chosen or the space's."""
        return self.choices.get("stem", self.space.stem)  # type: ignore[no-any-return]

    @property
    def activation(self) -> str:
        """The activation of every cell and of the stem, one of `ACTIVATIONS`."""
        return self.choices.get("activation", ACTIVATIONS[0])  # type: ignore[no-any-return]

    @property
    def pooling(self) -> str:
        """How maps are pooled under the head, one of `POOLINGS`."""
        return self.choices.get("pooling", POOLINGS[0])  # type: ignore[no-any-return]

    def channels(self, scale: int) -> int:
        """How many channels the cells at this scale have."""
        return round((self.space.channels << scale) * self.choices.get(f"width_{scale}", 1))

    def with_network(self, channels: int = 0, stem: str | None = None) -> Architecture:
        """The same with another width C or another stem, where one is given. Raises UserError."""
        space, choices = self.space, dict(self.choices)
        if stem is not None and "stem" in choices:
            space, choices["stem"] = replace(space, stems=tuple(dict.fromkeys((*space.stems, stem)))), stem
        space = replace(space, channels=channels or space.channels, stem=stem or space.stem)
        return replace(self, space=space, choices=choices)

    def ways(self) -> list[Branch]:
        """The ways to the outputs, and those to second inputs."""
        return [*self.branches.values(), *self.joins.values()]

    def chosen_cells(self) -> dict[Cell, str]:
        """The operation of every cell on a way."""
        return {cell: way.operations[cell[0]] for way in self.ways() for cell in enumerate(way.path)}

    def path_edges(self) -> set[tuple[Cell, Cell]]:
        """The steps of all branches' paths, from cell to cell."""
        return {step for way in self.branches.values() for step in pairwise(enumerate(way.path))}

    def chosen_edges(self) -> set[tuple[Cell, Cell]]:
        """The steps of all ways, those that join a path included."""
        found = {step for way in self.joins.values() for step in pairwise(enumerate(way.path))}
        return self.path_edges() | found | {((cell[0] - 1, way.path[-1]), cell) for cell, way in self.joins.items()}

    def describe(self) -> dict[str, Any]:
        """What was chosen, as plain values: `branches`, and `choices` and `joins` where there are any."""
        branches = {str(scale): _plain(way) for scale, way in self.branches.items()}
        joins = {f"{layer}/{scale}": _plain(way) for (layer, scale), way in self.joins.items()}
        choices = {"choices": self.choices} if self.choices else {}
        return {**choices, "branches": branches, **({"joins": joins} if joins else {})}

    @classmethod
    def from_description(cls, space: Space, record: Mapping[str, Any]) -> Architecture:
        """The architecture of a space that `describe` described, among other entries of a record. Raises UserError."""
        joins = _joins_from(record.get("joins", {}))
        return cls(space, _branches_from(record["branches"]), choices=dict(record.get("choices", {})), joins=joins)

    def to_dict(self) -> dict[str, Any]:
        """The plain value that `architecture.json` holds."""
        space: dict[str, Any] = {
            "name": SPACE_NAME,
            "layers": self.space.layers,
            "channels": self.space.channels,
            "operations": list(self.space.operations),
        }
        if self.space.chooses:
            space |= {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self.space).items()}
        elif self.space.stem != paper.STEM:  # files of the usual space are as they always were
            space["stem"] = self.space.stem
        schema = CHOOSING if self.space.chooses else SCHEMA
        return {"schema": schema, "space": space, **self.describe(), "found": self.found}

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
    top = as_fields(value, "the file", ("schema", "space", "branches", "found"), ("choices", "joins"))
    schema = as_integer(top["schema"], "schema")
    if schema not in (SCHEMA, CHOOSING):
        raise UserError(f"schema: expected {SCHEMA} or {CHOOSING}, got {show(top['schema'])}")
    branches = _branches_from(top["branches"])
    space = _space_from(top["space"], tuple(branches), schema)
    choices = as_fields(top.get("choices", {}), "choices", (), tuple(space.choices))
    if not isinstance(top["found"], dict):
        raise UserError(f"found: expected an object, got {show(top['found'])}")
    return Architecture(space, branches, top["found"], choices, _joins_from(top.get("joins", {})))


def _space_from(value: Any, branches: tuple[int, ...], schema: int) -> Space:
    usual = ("name", "layers", "channels", "operations")
    chosen = ("branches", "stem", "stems", "activations", "poolings", "outputs", "widths")
    optional = ("stem", "two_inputs") if schema == CHOOSING else ("stem",)
    found = as_fields(value, "space", usual + (chosen if schema == CHOOSING else ()), optional)
    if found["name"] != SPACE_NAME:
        raise UserError(f"space.name: expected {SPACE_NAME!r}, got {show(found['name'])}")
    if schema == SCHEMA and NUM_SCALES - 1 not in branches:
        raise UserError(f"branches: branch {NUM_SCALES - 1} (1/16) is missing")
    values: dict[str, Any] = {name: as_integer(found[name], f"space.{name}") for name in ("layers", "channels")}
    for name, convert in (
        *((name, as_string) for name in ("operations", "stems", "activations", "poolings")),
        *((name, as_integer) for name in ("branches", "outputs")),
        ("widths", _as_number),
    ):
        if name in found:
            values[name] = as_items(found[name], f"space.{name}", convert)
    values["two_inputs"] = found.get("two_inputs", False)
    if not isinstance(values["two_inputs"], bool):
        raise UserError(f"space.two_inputs: expected true or false, got {show(values['two_inputs'])}")
    stem = as_string(found.get("stem", paper.STEM), "space.stem")
    try:
        return Space(**{"branches": branches, **values}, stem=stem)
    except UserError as error:
        raise UserError(f"space.{error}") from None


def _branches_from(value: Any) -> dict[int, Branch]:
    if not isinstance(value, dict):
        raise UserError(f"branches: expected an object, got {show(value)}")
    branches = {}
    for key, item in value.items():
        if key not in [str(scale) for scale in range(NUM_SCALES)]:
            raise UserError(f'branches: expected the keys "0" to "{NUM_SCALES - 1}", got {show(key)}')
        branches[int(key)] = _way_from(item, f"branches.{key}")
    return branches


def _joins_from(value: Any) -> dict[Cell, Branch]:
    if not isinstance(value, dict):
        raise UserError(f"joins: expected an object, got {show(value)}")
    joins = {}
    for key, item in value.items():
        if not (match := re.fullmatch(r"([1-9][0-9]?)/([0-2])", str(key))):
            raise UserError(f"joins: expected keys such as 3/1, a layer and a scale, got {show(key)}")
        joins[int(match[1]), int(match[2])] = _way_from(item, f"joins.{key}")
    return joins


def _way_from(value: Any, where: str) -> Branch:
    way = as_fields(value, where, ("path", "operations"))
    return Branch(
        path=as_items(way["path"], f"{where}.path", as_integer),
        operations=as_items(way["operations"], f"{where}.operations", as_string),
    )


def _plain(way: Branch) -> dict[str, Any]:
    return {"path": list(way.path), "operations": list(way.operations)}


def _as_number(value: Any, where: str) -> float:
    if type(value) not in (int, float):
        raise UserError(f"{where}: expected a number, got {show(value)}")
    return float(value)


def _check_choices(space: Space, choices: Mapping[str, Any]) -> None:
    if choices.keys() != space.choices.keys():
        expected, got = (", ".join(map(str, names)) or "none" for names in (space.choices, choices))
        raise UserError(f"choices: expected those of the space, {expected}, got {show(got)}")
    for name, candidates in space.choices.items():
        if isinstance(choices[name], bool) or choices[name] not in candidates:
            raise UserError(f"choices.{name}: {show(choices[name])} is not one of {', '.join(map(str, candidates))}")


def _check_branch(space: Space, scale: int, branch: Branch) -> None:
    where = f"branches.{scale}"
    _check_way(space, where, branch, space.layers)
    if branch.path[-1] != scale:
        raise UserError(f"{where}.path: must end at scale {scale}, got {show(branch.path[-1])}")


def _check_join(architecture: Architecture, cell: Cell, way: Branch) -> None:
    where, space = f"joins.{cell[0]}/{cell[1]}", architecture.space
    if not space.two_inputs:
        raise UserError(f"{where}: space.two_inputs is false")
    taken = {source for source, target in architecture.path_edges() if target == cell}
    others = [source for source in predecessors(cell) if source not in taken]
    if not taken or not others:
        raise UserError(f"{where}: not a cell on the path of a branch that could have two inputs")
    _check_way(space, where, way, cell[0])
    if way.path[-1] != others[0][1]:
        raise UserError(f"{where}.path: must end at scale {others[0][1]}, got {show(way.path[-1])}")


def _check_way(space: Space, where: str, way: Branch, layers: int) -> None:
    for name, items in (("path", way.path), ("operations", way.operations)):
        if len(items) != layers:
            raise UserError(f"{where}.{name}: expected {layers} entries, one per layer, got {len(items)}")
    if way.path[0] != 0:
        raise UserError(f"{where}.path: must start at scale 0, got {show(way.path[0])}")
    for layer in range(1, layers):
        if way.path[layer] - way.path[layer - 1] not in (0, 1):
            raise UserError(f"{where}.path[{layer}]: each step keeps the scale or adds one")
    for layer, operation in enumerate(way.operations):
        if operation not in space.selectable:
            raise UserError(f"{where}.operations[{layer}]: {show(operation)} is not one of space.operations")


def inconsistent_cell(ways: Iterable[Branch]) -> Cell | None:
    """The first cell that two ways share without agreeing on the operations and the path up to it."""
    seen: dict[Cell, tuple[object, object]] = {}
    for way in ways:
        for cell in enumerate(way.path):
            before = way.path[: cell[0]], way.operations[: cell[0] + 1]
            if seen.setdefault(cell, before) != before:
                return cell
    return None
