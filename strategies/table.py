"""A table of trained architectures: one compressed file of plain data, JSON lines in xz.

The first line says what the table is of:
    table, schema     what makes it known
    config            the options it was made with
    protocol, space   as in a run folder
    complete          whether every architecture of the space is there
    epochs, seeds     of every training; how many there are on all known classes
    rotations         for each training as in a search, the classes that play the unknown
    rules, scores     what the axes of the figures are
    provenance        versions, machine, command, seconds of all trainings
Every other line is an architecture:
    fingerprint, branches, choices   what it is; see `Architecture.describe`
    parameters, macs                 of the network that is trained on all known classes, without heads; with them
    true, pas         by rule and score: a list for each seed, or rotation, of the figures after every epoch, in [0, 1]
    seconds           of each of its trainings, seeds first
Further entries of a line are further columns, by name; a reader passes over what it does not know.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas_osr.errors import UserError, show
from nas_osr.files.paths import user_path
from nas_osr.files.storage import file_errors, json_line, replace_file
from nas_osr.files.text import parse_object
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.architectures.canonical import fingerprint
from nas_osr.search_spaces.space import Space

TABLE_FILE = "table.jsonl.xz"
TABLE_SCHEMA = 1
SCORED = ("auroc", "oscr", "f1", "accuracy")
MAX_TABLE_BYTES = 1 << 30
HEADER = {
    "config": dict, "protocol": dict, "space": dict, "complete": bool, "epochs": int, "seeds": int, "rotations": list,
    "rules": list, "scores": list, "provenance": dict,
}  # fmt: skip


@dataclass(frozen=True)
class SearchTable:
    """What a table file holds."""

    header: Mapping[str, Any]
    "its first line."
    rows: Sequence[Mapping[str, Any]]
    "its architectures."

    @cached_property
    def space(self) -> Space:
        """The space that they are of."""
        return Space(**self.header["space"])

    @cached_property
    def place(self) -> dict[str, int]:
        """The row of a fingerprint."""
        return {fingerprint(self.architecture(row)): row for row in range(len(self.rows))}

    def architecture(self, row: int) -> Architecture:
        """That of a row."""
        return Architecture.from_description(self.space, self.rows[row])

    def check_rule(self, rule: str | None) -> str:
        """The rule itself, or the table's first for None. UserError: the table has no such rule."""
        rules = self.header["rules"]
        if rule is not None and rule not in rules:
            raise UserError(f"rule {rule}: the table has {', '.join(rules)}")
        return rule or str(rules[0])

    def true(self, rule: str, score: str) -> NDArray[np.float64]:
        """Figures on the test images [architectures, seeds, epochs]."""
        return self._figures("true", rule, score)

    def pas(self, rule: str, score: str) -> NDArray[np.float64]:
        """Figures as a search has them, without the true unknown classes [architectures, rotations, epochs]."""
        return self._figures("pas", rule, score)

    def column(self, name: str) -> NDArray[np.float64]:
        """A number of each architecture [architectures], such as `parameters`."""
        return np.array([row[name] for row in self.rows], dtype=np.float64)

    def _figures(self, where: str, rule: str, score: str) -> NDArray[np.float64]:
        if (where, rule, score) not in self._read:
            found = [row[where][rule][score] for row in self.rows]
            self._read[where, rule, score] = np.array(found, dtype=np.float64)
        return self._read[where, rule, score]

    @cached_property
    def _read(self) -> dict[tuple[str, str, str], NDArray[np.float64]]:
        return {}


def write_table(path: Path, header: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table, whole or not at all; equal ones have equal bytes. Raises UserError: the disk refuses."""
    lines = [json_line({"table": "nas-osr", "schema": TABLE_SCHEMA, **header}), *map(json_line, rows)]
    with replace_file(path) as file:
        file.write(lzma.compress("".join(lines).encode(), preset=9))


def read_table(path: str | Path) -> SearchTable:
    """Read a table. Raises UserError: it is missing, broken, or none."""
    path = user_path(path)
    path = path / TABLE_FILE if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"{path}: no such table; `nas-osr tabulate` makes one")
    try:
        with file_errors(path, "read"), lzma.open(path) as file:
            content = file.read(MAX_TABLE_BYTES + 1)
    except (lzma.LZMAError, EOFError):
        raise UserError(f"{path}: not a table: it is no whole xz file") from None
    if len(content) > MAX_TABLE_BYTES:
        raise UserError(f"{path}: larger than {MAX_TABLE_BYTES >> 20} MiB when unpacked")
    lines = content.decode("utf-8", errors="replace").splitlines()
    found = [parse_object(line, f"{path} line {number}") for number, line in enumerate(lines, start=1)]
    header, rows = (found[0], found[1:]) if found else ({}, [])
    if header.get("table") != "nas-osr" or header.get("schema") != TABLE_SCHEMA or not rows:
        raise UserError(f"{path}: not a table of nas-osr of schema {TABLE_SCHEMA}")
    check_header(header, f"{path} line 1")
    table = SearchTable(header, rows)
    check_rows(table, str(path))
    return table


def check_header(header: Mapping[str, Any], where: str) -> None:
    """UserError unless a header says what the rows are read by."""
    for name, kind in HEADER.items():
        if name not in header:
            raise UserError(f"{where}: {name} is missing")
        if type(header[name]) is not kind:
            raise UserError(f"{where}: {name} must be of type {kind.__name__}, got {show(header[name])}")
    scored = all(score in header["scores"] for score in SCORED)
    if header["epochs"] < 1 or header["seeds"] < 1 or not header["rules"] or not scored:
        raise UserError(
            f"{where}: not of a table: it has no epochs, seeds, rules, or not the scores {', '.join(SCORED)}"
        )


def check_rows(table: SearchTable, where: str) -> None:
    """UserError unless every row has its figures, of the header's shape, and is an architecture that no other is."""
    header, epochs = table.header, table.header["epochs"]
    expected = {"true": header["seeds"], "pas": len(header["rotations"])}
    met: set[str] = set()
    for number, row in enumerate(table.rows, start=2):
        try:
            table.architecture(number - 2)
            for part, count in expected.items():
                for rule, score in product(header["rules"], header["scores"] if count else ()):
                    figures = np.array(row[part][rule][score], dtype=np.float64)
                    if figures.shape != (count, epochs) or not np.isfinite(figures).all():
                        raise UserError("figures are not there for every seed, rotation and epoch")
            float(row["parameters"]), float(row["macs"])
            if row["fingerprint"] in met:
                raise UserError("the architecture is there already")
            met.add(row["fingerprint"])
        except (KeyError, TypeError, ValueError, UserError) as error:
            raise UserError(f"{where} line {number}: not a row of a table: {json.dumps(str(error))[:200]}") from None
