"""What may differ between a run and its resumption, and what is said when something does."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

from nas_osr.errors import UserError
from nas_osr.files.storage import read_config
from nas_osr.files.text import read_object

logger = logging.getLogger(__name__)


Precision = Literal["32-true", "bf16-mixed"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
# where and how it is computed, not what
MAY_CHANGE = (
    "data_dir", "device", "threads", "checkpointing", "compile", "graphs", "backend", "cpus_per_job", "gpus_per_job",
)  # fmt: skip
CONDITIONS = (
    "device",
    "device_name",
    "precision",
    "cpu_threads",
    "ranks",
    "graphs",
)  # in the provenance: what bits depend on


def check_same_config(
    path: Path, before: Mapping[str, Any], now: Mapping[str, Any], may_change: Collection[str] = ()
) -> None:
    """UserError, naming the first difference, unless both configurations are the same but for what may change."""
    for name in [*before, *now]:
        old, new = before.get(name), now.get(name)
        if name in before and name in now:
            same = old == new
        else:  # an option that another version does not have is off there
            same = not (old or new)
        same = same or (name == "precision" and old == "auto")  # of an earlier version: see `begun_precision`
        if not same and name not in (*MAY_CHANGE, *may_change):
            name, old, new = innermost(name, old, new)
            raise UserError(f"{path}: cannot resume: {name} was {old!r} at the start and is {new!r} now")


def innermost(name: str, old: Any, new: Any, missing: Any = None) -> tuple[str, Any, Any]:
    """The first entry that differs between two values of an option, by its dotted name; `missing` where it is not."""
    while isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = [*(key for key in old if key in new), *old, *new]  # what one of them lacks comes last
        key = next(key for key in keys if old.get(key, ...) != new.get(key, ...))
        name, old, new = f"{name}.{key}", old.get(key, missing), new.get(key, missing)
    return name, old, new


def begun_precision(path: Path) -> Precision | None:
    """In which precision the run in a folder, or the first part of a retraining, began; None where none has begun.

    Earlier versions decided it at every start: of theirs the provenance says it. UserError: a file is broken.
    """
    for folder in (path, *sorted(path.glob("split-*"))):
        files = folder / "config.yaml", folder / "provenance.json"
        if all(file.is_file() for file in files):
            record = read_object(files[1])
            for found in (read_config(files[0]).get("precision"), record.get("precision")):
                if found in PRECISIONS and not record.get("clearing"):
                    return cast(Precision, found)
    return None


def warn_of_changes(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Log a warning when a run goes on under conditions that can change the last bits of its results.

    Args:
        path: the run's folder.
        before: its provenance.
        now: the same entries, as they are in this process: `CONDITIONS` and versions.
    """
    pairs = {name: (before.get(name), now.get(name)) for name in CONDITIONS if name in before and name in now}
    old, new = before.get("versions") or {}, now["versions"]
    pairs |= {name: (old.get(name), new[name]) for name in new}
    changed = [f"{name} was {one} and is {other}" for name, (one, other) in pairs.items() if one != other]
    if changed:
        logger.warning("%s: what follows may differ in the last bits: %s", path, ", ".join(changed))


def resuming(command: Sequence[str]) -> str:
    """The command line that goes on with what another has begun."""
    pairs = zip(["", *command], command, strict=False)
    left_out = ("--resume", "--overwrite")
    kept = [part for before, part in pairs if before != "--resume" and part.partition("=")[0] not in left_out]
    return shlex.join([*kept, "--resume", "auto"])
