"""The architecture that a search finds: a small typed value over its space, and JSON in and out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from nas_osr.errors import UserError, show
from nas_osr.files.paths import user_path
from nas_osr.files.storage import replace_file
from nas_osr.files.text import as_fields, as_integer, as_items, as_string, check_json_value, parse_json, read_text
from nas_osr.search_spaces import paper
from nas_osr.search_spaces.space import ACTIVATIONS, NUM_SCALES, POOLINGS, Cell, Space

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

    Branches that share a cell agree on the operation and on the way to it, so that every cell has one input.

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

    def __post_init__(self) -> None:
        _check_choices(self.space, self.choices)
        ends = (self.choices["output"],) if self.space.outputs else self.space.branches
        if tuple(sorted(self.branches)) != ends:
            expected = ", ".join(map(str, ends))
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

    def chosen_cells(self) -> dict[Cell, str]:
        """The operation of every cell on a path."""
        return {cell: way.operations[cell[0]] for way in self.branches.values() for cell in enumerate(way.path)}

    def chosen_edges(self) -> set[tuple[Cell, Cell]]:
        """The steps of all paths, from cell to cell."""
        return {step for way in self.branches.values() for step in pairwise(enumerate(way.path))}

    def describe(self) -> dict[str, Any]:
        """What was chosen, as plain values: `choices`, where the space has any, and `branches`."""
        branches = {
            str(scale): {"path": list(branch.path), "operations": list(branch.operations)}
            for scale, branch in self.branches.items()
        }
        return {**({"choices": self.choices} if self.choices else {}), "branches": branches}

    @classmethod
    def from_description(cls, space: Space, record: Mapping[str, Any]) -> Architecture:
        """The architecture of a space that `describe` described, among other entries of a record. Raises UserError."""
        return cls(space, _branches_from(record["branches"]), choices=dict(record.get("choices", {})))

    def to_dict(self) -> dict[str, Any]:
        """The plain value that `architecture.json` holds."""
        space: dict[str, Any] = {
            "name": SPACE_NAME,
            "layers": self.space.layers,
            "channels": self.space.channels,
            "operations": list(self.space.operations),
        }
        if self.choices:
            space |= {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self.space).items()}
        elif self.space.stem != paper.STEM:  # files of the usual space are as they always were
            space["stem"] = self.space.stem
        schema = CHOOSING if self.choices else SCHEMA
        return {"schema": schema, "space": space, **self.describe(), "found": self.found}

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
    top = as_fields(value, "the file", ("schema", "space", "branches", "found"), ("choices",))
    schema = as_integer(top["schema"], "schema")
    if schema not in (SCHEMA, CHOOSING):
        raise UserError(f"schema: expected {SCHEMA} or {CHOOSING}, got {show(top['schema'])}")
    branches = _branches_from(top["branches"])
    space = _space_from(top["space"], tuple(branches), schema)
    choices = as_fields(top.get("choices", {}), "choices", (), tuple(space.choices))
    if not isinstance(top["found"], dict):
        raise UserError(f"found: expected an object, got {show(top['found'])}")
    return Architecture(space, branches, top["found"], choices)


def _space_from(value: Any, branches: tuple[int, ...], schema: int) -> Space:
    usual = ("name", "layers", "channels", "operations")
    chosen = ("branches", "stem", "stems", "activations", "poolings", "outputs", "widths")
    found = as_fields(value, "space", usual + (chosen if schema == CHOOSING else ()), ("stem",))
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
        where = f"branches.{key}"
        branch = as_fields(item, where, ("path", "operations"))
        branches[int(key)] = Branch(
            path=as_items(branch["path"], f"{where}.path", as_integer),
            operations=as_items(branch["operations"], f"{where}.operations", as_string),
        )
    return branches


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
        if operation not in space.selectable:
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
