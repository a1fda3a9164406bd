"""The front of a search's trials: what no other beats in both score and cost, each as an architecture file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from nas_osr.errors import UserError
from nas_osr.files.storage import file_errors, replace_file
from nas_osr.metrics.fronts import pareto_front
from nas_osr.runs.names import FRONT_FILE, FRONT_FOLDER
from nas_osr.runs.run_folder import RunFolder
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.space import Space

COSTS = ("parameters", "macs", "memory", "latency")

Record = Mapping[str, Any]
R = TypeVar("R", bound=Record)


def trained_longest(records: Sequence[R]) -> list[R]:
    """Those of trials that were trained for as many epochs as any; others are not to be compared with them."""
    epochs = [record.get("trained_epochs", 0) for record in records]
    longest = max(epochs, default=0)
    return [record for record, trained in zip(records, epochs, strict=True) if trained == longest]


def front_of(history: Sequence[Record], score: str, cost: str) -> list[Record]:
    """The records of trials that none beats in higher score and lower cost, by rising cost; of equal ones the first.

    Trials without that score or cost are not among them, nor those that were trained for less than the longest.
    """
    trials = trained_longest([record for record in history if record.get("phase") == "trial"])
    known = [record for record in trials if record.get(score) is not None and record.get(cost) is not None]
    values, costs = (np.array([record[name] for record in known], dtype=np.float64) for name in (score, cost))
    return [known[place] for place in pareto_front(costs, values)]


def write_front(
    run: RunFolder,
    space: Space,
    score: str,
    cost: str,
    with_origin: Callable[[Architecture, Record, float], Architecture],
) -> None:
    """Leave the front of a search in its folder: a file for each architecture, and a list of them with their figures.

    Args:
        run: has the history; where it has no trials, nothing is left.
        score, cost: by their names in it.
        with_origin: an architecture that says of which record and score it is.
    """
    rows, folder = [], run.path / FRONT_FOLDER
    for record in front_of(run.read_history(), score, cost):
        architecture = with_origin(Architecture.from_description(space, record), record, record[score])
        name = f"trial-{record['epoch']}.json"
        with file_errors(folder, "create"):
            folder.mkdir(exist_ok=True)
        architecture.save(folder / name)
        figures = {key: record[key] for key in dict.fromkeys((score, cost, *COSTS)) if key in record}
        file = f"{FRONT_FOLDER}/{name}"
        rows.append({"trial": record["epoch"], **figures, "file": file, "architecture": architecture.to_dict()})
    if rows:
        with replace_file(run.path / FRONT_FILE) as written:
            written.write((json.dumps({"front": rows}, indent=2, allow_nan=False) + "\n").encode())


def read_front(run: RunFolder) -> list[dict[str, Any]]:
    """What `write_front` has left, without the architectures: trial, score, costs and file of each, the front's own
    cost first; nothing where a search tries no architectures. Raises UserError."""
    if not (run.path / FRONT_FILE).exists():
        return []
    rows = run.read_json(FRONT_FILE).get("front")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{run.path / FRONT_FILE}: not the front of a search")
    return [{name: value for name, value in row.items() if name != "architecture"} for row in rows]
