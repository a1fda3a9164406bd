"""Sweep files: read, checked, and expanded to single runs.

    about: what it measures, in one sentence
    common: {protocol: cifar10}               # options of every run whose command has them
    runs:
      - name: "alpha-{alpha}"                 # its folder; one for each point of the grid
        command: retrain                      # any command of nas-osr
        grid: {alpha: [1, 10]}                # every combination, the last name varying fastest
        options: {objective: cac, objective_config.alpha: "{alpha}"}
      - name: "mls-{alpha}"
        command: evaluate
        needs: "alpha-{alpha}"                # one name or a list; those runs come first
        grid: {alpha: [1, 10]}
        options: {run: "{out}/alpha-{alpha}", rule: mls}

`{alpha}` is replaced in name, needs and options, also inside lists and mappings; a text that is nothing else takes over
the value with its type. A value of the grid may be a mapping, so that several options vary together: `{case.epochs}`.
`{out}` is the folder of the whole sweep.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from nas_osr.errors import UserError, suggest
from nas_osr.files.paths import user_path
from nas_osr.files.text import check_json_value, read_text
from nas_osr.files.yaml_text import MAX_YAML_BYTES, compose_yaml, construct_yaml

OUT = "out"
PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*(?:\.\w+)?)\}")
NAME = re.compile(r"[A-Za-z0-9][\w+.,=-]*", re.ASCII)
MAX_RUNS = 10_000
MAX_SWEEP_DEPTH = 12
MAX_TEXT = 10_000  # characters that placeholders put into one text
# What a sweep decides for each run, and what would make a run depend on another file or stop it.
RESERVED = frozenset({"out", "resume", "overwrite", "dry_run", "json", "quiet", "config", "help", "print_config"})


@dataclass(frozen=True)
class Run:
    """One run of a sweep."""

    name: str
    "unique; its folder inside the sweep's."
    command: str
    'the command of nas-osr, e.g. "retrain".'
    options: Mapping[str, Any]
    'values by option, dotted for an entry of a mapping; texts may hold "{out}".'
    needs: tuple[str, ...]
    "names of the runs that must be finished before."
    where: str
    "file and line, for messages."


@dataclass(frozen=True)
class Sweep:
    """A checked sweep: every run after those that it needs."""

    name: str
    about: str
    runs: tuple[Run, ...]


def shipped() -> dict[str, Path]:
    """The sweep files that come with the package, by name."""
    folder = Path(str(resources.files("nas_osr"))) / "sweeps"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read_sweep(
    reference: str, option_names: Callable[[str], set[str]], overrides: Mapping[str, Any] | None = None
) -> Sweep:
    """The sweep of a file, or of a shipped one by its name.

    Args:
        reference: a path, or a name of `shipped`.
        option_names: the options that a command has; raises UserError when there is no such command.
        overrides: options that win over the file's, in every run whose command has them.

    Raises:
        UserError: no such file, or a mistake in it; names file, line and key.
    """
    path = user_path(reference)
    if not path.exists():
        names = shipped()
        if reference not in names:
            raise UserError(f"{reference}: no such sweep file{suggest(reference, names, instead='shipped are')}")
        path = names[reference]
    content = Content(read_text(path, MAX_YAML_BYTES), reference)
    top = content.fields(content.value, (), required=("about", "runs"), optional=("common",))
    if not isinstance(top["about"], str) or not top["about"].strip():
        raise UserError(f"{content.at('about')}: about must be a sentence, got {top['about']!r}")
    common = content.options(top, (), "common")
    if not isinstance(top["runs"], list) or not top["runs"]:
        raise UserError(f"{content.at('runs')}: runs must be a list of at least one run")
    runs: dict[str, Run] = {}
    for index in range(len(top["runs"])):
        for run in expand(content, index, common, overrides or {}, option_names):
            if run.name in runs:
                raise UserError(f"{run.where}: there is a run {run.name!r} already: names must be different")
            runs[run.name] = run
            if len(runs) > MAX_RUNS:
                raise UserError(f"{run.where}: more than {MAX_RUNS} runs")
    offered = {name for command in {run.command for run in runs.values()} for name in option_names(command)}
    for key in common:
        if key.partition(".")[0] not in offered:
            raise UserError(f"{content.at('common', key)}: no command of this sweep has an option {key}")
    for key in overrides or {}:
        if key.partition(".")[0] not in offered:
            raise UserError(f"{reference}: --set.{key}: no command of this sweep has that option")
    return Sweep(path.stem, " ".join(top["about"].split()), order(runs))


class Content:
    """The values of a YAML file together with the lines that they are on.

    Attributes:
        value: plain values; no key occurs twice in a mapping.
        origin: the file as the user named it.
    """

    def __init__(self, text: str, origin: str) -> None:
        self.origin = origin
        root = compose_yaml(text, origin)
        self._lines: dict[tuple[Any, ...], int] = {}
        if root is not None:
            self._index(root, ())
        self.value: Any = construct_yaml(root, origin)
        check_json_value(self.value, f"{origin}: file", MAX_SWEEP_DEPTH)

    def _index(self, node: yaml.Node, path: tuple[Any, ...]) -> None:
        self._lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            for key, item in node.value:
                inner = (*path, str(key.value))
                self._lines[inner] = key.start_mark.line + 1
                self._index(item, inner)
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self._index(item, (*path, index))

    def at(self, *path: Any) -> str:
        """FILE:LINE of the value at a path of keys and indices, or of what it would be in."""
        while path not in self._lines and path:
            path = path[:-1]
        return f"{self.origin}:{self._lines.get(path, 1)}"

    def fields(
        self, value: Any, path: tuple[Any, ...], required: tuple[str, ...], optional: tuple[str, ...]
    ) -> dict[str, Any]:
        """The value as a mapping with these keys; UserError otherwise."""
        known = [*required, *optional]
        if not isinstance(value, dict):
            raise UserError(f"{self.at(*path)}: expected a mapping with {', '.join(known)}")
        for key in value:
            if key not in known:
                hint = suggest(str(key), known, instead="there are")
                raise UserError(f"{self.at(*path, key)}: unknown key {key}{hint}")
        for key in required:
            if key not in value:
                raise UserError(f"{self.at(*path)}: {key} is missing")
        return value

    def options(self, parent: Mapping[str, Any], path: tuple[Any, ...], key: str) -> dict[str, Any]:
        """The options under a key of the mapping at a path, {} without it; UserError unless they are a mapping."""
        value = parent.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise UserError(f"{self.at(*path, key)}: {key} must be a mapping of options to values, got {value!r}")
        for name in value:
            if name.partition(".")[0] in RESERVED:
                raise UserError(f"{self.at(*path, key, name)}: {name} is not for a sweep file: leave it out")
        return value


def expand(
    content: Content,
    index: int,
    common: Mapping[str, Any],
    overrides: Mapping[str, Any],
    option_names: Callable[[str], set[str]],
) -> Iterator[Run]:
    """The runs of one entry, in the order of its grid."""
    path = ("runs", index)
    entry = content.fields(
        content.value["runs"][index], path, required=("name", "command"), optional=("grid", "options", "needs")
    )
    for key in ("name", "command"):
        if not isinstance(entry[key], str):
            raise UserError(f"{content.at(*path, key)}: {key} must be text, got {entry[key]!r}")
    needs = entry.get("needs") or []
    needs = needs if isinstance(needs, list) else [needs]

    for point in points(content, entry, path):
        at = content.at(*path)
        name = str(fill(entry["name"], point, content.at(*path, "name")))
        if not NAME.fullmatch(name) or name.endswith((".log", ".json")):
            raise UserError(
                f"{content.at(*path, 'name')}: {name[:60]!r} cannot name a folder: letters, digits and _ + . , = - "
                "only, and not ending in .log or .json"
            )
        command = str(fill(entry["command"], point, content.at(*path, "command")))
        try:
            offered = option_names(command)
        except UserError as error:
            raise UserError(f"{content.at(*path, 'command')}: {error}") from None
        options = {key: value for key, value in common.items() if key.partition(".")[0] in offered}
        options |= content.options(entry, path, "options")
        filled = {key: fill(value, point, content.at(*path, "options", key)) for key, value in options.items()}
        own = {key: value for key, value in overrides.items() if key.partition(".")[0] in offered}
        needed = tuple(str(fill(need, point, content.at(*path, "needs"))) for need in needs)
        used_texts: list[str] = []
        map_texts(filled, used_texts.append)
        for target in (target for text in used_texts for target in re.findall(r"\{out\}/([^/]*)", text)):
            if target not in needed:
                raise UserError(f"{at}: run {name} uses {{out}}/{target}: say `needs: {target}` as well")
        yield Run(name, command, merge(filled, own), needed, at)


def merge(options: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Both, the overrides last and winning; an overridden mapping loses the entries that dotted names gave it."""
    heads = tuple(f"{name}." for name in overrides)
    return {**{name: value for name, value in options.items() if not f"{name}.".startswith(heads)}, **overrides}


def points(content: Content, entry: Mapping[str, Any], place: tuple[Any, ...]) -> Iterator[dict[str, Any]]:
    """Every combination of an entry's grid, as {name: value}; one empty combination where there is none."""
    path = (*place, "grid")
    grid = entry.get("grid") or {}
    if not isinstance(grid, dict):
        raise UserError(f"{content.at(*path)}: grid must be a mapping of names to lists of values, got {grid!r}")
    for name, values in grid.items():
        if not re.fullmatch(r"[A-Za-z_]\w*", name) or name == OUT:
            raise UserError(f"{content.at(*path, name)}: {name!r} cannot name a value of the grid")
        if not isinstance(values, list) or not values:
            raise UserError(f"{content.at(*path, name)}: {name} must be a list of at least one value")
    for values in product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def map_texts(value: Any, function: Callable[[str], Any]) -> Any:
    """A value with `function` applied to every text inside it."""
    if isinstance(value, dict):
        return {key: map_texts(item, function) for key, item in value.items()}
    if isinstance(value, list):
        return [map_texts(item, function) for item in value]
    return function(value) if isinstance(value, str) else value


def fill(value: Any, point: Mapping[str, Any], at: str) -> Any:
    """A value with its placeholders replaced; "{out}" stays. UserError on an unknown one."""

    def look_up(match: re.Match[str]) -> Any:
        name, _, key = match[1].partition(".")
        if match[1] == OUT:
            return match[0]
        found = point.get(name, ...)
        if key:
            found = found.get(key, ...) if isinstance(found, dict) else ...
        if found is ...:
            raise UserError(f"{at}: {match[0]} is not in the grid of this run, which has {', '.join(point) or 'none'}")
        return found

    def fill_text(text: str) -> Any:
        whole = PLACEHOLDER.fullmatch(text)
        if whole:
            return look_up(whole)
        parts = [str(look_up(match)) for match in PLACEHOLDER.finditer(text)]
        if sum(map(len, parts)) > MAX_TEXT:
            raise UserError(f"{at}: more than {MAX_TEXT} characters with its placeholders filled in")
        return PLACEHOLDER.sub(lambda match: parts.pop(0), text)

    return map_texts(value, fill_text)


def order(runs: Mapping[str, Run]) -> tuple[Run, ...]:
    """The runs in the order of the file, but each after those that it needs. UserError on unknown needs and cycles."""
    for run in runs.values():
        for need in run.needs:
            if need not in runs:
                hint = suggest(need, [name for name in runs if name != run.name])
                raise UserError(f"{run.where}: run {run.name} needs {need!r}, which is not a run of this sweep{hint}")
    try:
        TopologicalSorter({name: run.needs for name, run in runs.items()}).prepare()
    except CycleError as error:
        raise UserError(f"{runs[error.args[1][0]].where}: runs need each other: {' -> '.join(error.args[1])}") from None
    ordered: dict[str, Run] = {}
    waiting = list(runs.values())[::-1]  # a stack, because chains of needs may be long
    while waiting:
        missing = [runs[need] for need in waiting[-1].needs if need not in ordered]
        if missing:
            waiting += reversed(missing)
        else:
            run = waiting.pop()
            ordered.setdefault(run.name, run)
    return tuple(ordered.values())
