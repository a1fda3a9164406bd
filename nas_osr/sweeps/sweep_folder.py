"""A sweep's folder: what its runs were started with, and how they ended.

    OUT/sweep.json     what each run was started with, and how it ended
    OUT/NAME/          what a run leaves, see docs/reference/run-folder.md
    OUT/NAME.log       what it printed
    OUT/NAME.claim     locked by the process that makes it, where several share the folder

A run that keeps a run folder has finished when its provenance says so; another one when sweep.json does.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nas_osr.errors import UserError
from nas_osr.files.locks import LOCKS, lock_folder
from nas_osr.files.paths import user_path
from nas_osr.files.storage import append_line, file_errors, replace_file
from nas_osr.files.text import read_object
from nas_osr.plain import plain
from nas_osr.runs import provenance
from nas_osr.runs.names import PROGRAM, matches
from nas_osr.runs.resumption import MAY_CHANGE, innermost
from nas_osr.runs.run_folder import RunFolder
from nas_osr.sweeps.executor import Job
from nas_osr.sweeps.shared import try_claim
from nas_osr.sweeps.sweep_file import OUT, Run, map_texts

STATE = "sweep.json"
BEFORE_STATE = (*LOCKS, "*.claim", ".*.tmp")  # what processes that share a folder may have put there
WRITING_SECONDS = 0.02
SWEEP_SCHEMA = 1


class SweepFolder:
    """The folder of a sweep.

    Args:
        path: the folder; made when it is locked.
        option_names: the options that a command has.
        shared: whether other processes make runs of the sweep, too.
    """

    def __init__(self, path: str | Path, option_names: Callable[[str], set[str]], shared: bool = False) -> None:
        self.path = user_path(path)
        self.option_names = option_names
        self.shared = shared
        self.records: Any = {}
        self.read_file: tuple[int, ...] = ()  # which file `records` are from
        if (self.path / STATE).exists():
            self.read()
        elif self.path.is_dir() and not all(matches(entry.name, BEFORE_STATE) for entry in self.path.iterdir()):
            raise UserError(f"{self.path}: not empty and not the folder of a sweep; choose another --out")
        self.ends = {name: record.get("ended") for name, record in self.records.items()}

    def read(self) -> None:
        """Read what is known of the runs. UserError: the file is none of a sweep."""
        state = read_object(self.path / STATE)
        self.records = state.get("runs") if state.get("program") == PROGRAM else None
        if not (isinstance(self.records, dict) and all(map(is_record, self.records.values()))):
            raise UserError(f"{self.path / STATE}: not the state of a sweep of nas-osr; choose another --out")

    def refresh(self) -> None:
        """Read it again where another process has written it. UserError as of `read`."""
        with contextlib.suppress(FileNotFoundError), open(self.path / STATE, "rb") as file:
            status = os.fstat(file.fileno())
            found = (status.st_ino, status.st_mtime_ns, status.st_size)
            if found != self.read_file:
                self.read()
                self.read_file = found

    @contextlib.contextmanager
    def locked(self) -> Iterator[int]:
        """Inside, no other process uses the folder, but for those that share it.

        Yields the lock's descriptor. Runs that keep it open too, and outlive a killed sweep, keep the folder locked.
        """
        with file_errors(self.path, "create the folder of the sweep"):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = lock_folder(self.path, self.shared)
        try:
            yield lock.descriptor
        finally:
            lock.close()

    def keeps_run(self, run: Run) -> bool:
        """Whether the command leaves a run folder, which knows itself whether the run has finished."""
        return {"out", "resume"} <= self.option_names(run.command)

    def finished(self, run: Run) -> bool:
        """Whether the run has come to its end."""
        if self.keeps_run(run):
            return RunFolder(self.path / run.name).finished
        return self.records.get(run.name, {}).get("status") == "finished" and not self.changed(run)

    def changed(self, run: Run) -> str | None:
        """How a run differs from what it was started with, in words; None where it does not, or never was started."""
        record = self.records.get(run.name)
        if record is None:
            return None
        if record["command"] != run.command:
            return f"it was {record['command']} and is {run.command} now"
        before, now = record["options"], plain(run.options, run.name)
        for name in [*before, *now]:
            if name not in MAY_CHANGE and before.get(name, ...) != now.get(name, ...):
                name, *values = innermost(name, before.get(name, ...), now.get(name, ...), missing=...)
                old, new = ("not given" if value is ... else json.dumps(value) for value in values)
                return f"{name} was {old} and is {new} now"
        return None

    def check_unchanged(self, runs: Sequence[Run]) -> None:
        """UserError if a run whose folder has been begun is asked for with other options."""
        for run in runs:
            difference = self.changed(run)
            if difference and self.keeps_run(run) and (self.path / run.name / "provenance.json").exists():
                state = "has finished" if self.finished(run) else "has begun"
                raise UserError(
                    f"{run.where}: run {run.name} {state} with other options: {difference}; choose another --out, or "
                    f"remove {self.path / run.name} to make it again"
                )

    def arguments(self, run: Run) -> list[str]:
        """The command line of a run, after the program's name."""
        offered = self.option_names(run.command)
        line = [*run.command.split(), *list_arguments(run.options, str(self.path))]
        if "out" in offered:
            line.append(f"--out={self.path / run.name}")
        if "resume" in offered:
            line.append("--resume=auto")
        return line

    def record(self, run: Run, **entries: Any) -> None:
        """Write down what is known of a run; entries are added to those that are there."""
        with self.alone():
            self.records[run.name] = {**self.records.get(run.name, {}), **entries}
            state = {"program": PROGRAM, "schema": SWEEP_SCHEMA, "runs": self.records}
            with replace_file(self.path / STATE) as file:
                file.write((json.dumps(state, indent=2, allow_nan=False) + "\n").encode())

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, none of the processes that share the folder writes down anything, and what they have is known."""
        if not self.shared:
            yield
            return
        while (claim := try_claim(self.path / f"{STATE}.claim")) is None:
            time.sleep(WRITING_SECONDS)
        try:
            self.refresh()
            yield
        finally:
            claim.close(settled=False)  # others may be waiting for this very file

    def ended_elsewhere(self, run: Run) -> dict[str, str] | None:
        """Status and error of a run that has ended in another process since this one began; None where none has.

        UserError: it has other options there.
        """
        self.refresh()
        record = self.records.get(run.name, {})
        if record.get("status") not in ("finished", "failed") or record.get("ended") == self.ends.get(run.name):
            return None
        difference = self.changed(run)
        if difference:
            raise UserError(f"{run.where}: run {run.name} has other options in another process: {difference}")
        return {"status": record["status"], "error": record.get("error", "")}

    def claim_file(self, run: Run) -> Path:
        """What the process locks that makes a run, where several share the folder."""
        return self.path / f"{run.name}.claim"

    def job(self, run: Run) -> Job:
        """The job that a run is."""
        return Job(run.name, self.arguments(run), self.log(run))

    def begin(self, run: Run) -> Job:
        """Write down that a run starts; the job that it is."""
        self.record(
            run, command=run.command, options=plain(run.options, run.name), status="running", error="",
            started=provenance.utc_now(), ended=None,
        )  # fmt: skip
        append_line(self.log(run), f"$ {shlex.join([PROGRAM, *self.arguments(run)])}\n")
        return self.job(run)

    def end(self, run: Run, status: str, error: str) -> None:
        """Write down how a run ended."""
        self.record(run, status=status, error=error, ended=provenance.utc_now())

    def log(self, run: Run) -> Path:
        """Where a run's output goes."""
        return self.path / f"{run.name}.log"


def is_record(value: Any) -> bool:
    """Whether a value from the state file is what `SweepFolder.begin` writes down of a run."""
    kinds = {"command": str, "options": dict, "status": str}
    return isinstance(value, dict) and all(isinstance(value.get(name), kind) for name, kind in kinds.items())


def list_arguments(options: Mapping[str, Any], out: str) -> list[str]:
    """Options as command-line arguments, "{out}" replaced."""
    arguments = []
    for name, value in options.items():
        filled = map_texts(value, lambda text: text.replace(f"{{{OUT}}}", out))
        arguments.append(f"--{name}={filled if isinstance(filled, str) else json.dumps(filled, ensure_ascii=False)}")
    return arguments
