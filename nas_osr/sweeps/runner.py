"""A sweep's folder, and its runs as local processes.

    OUT/sweep.json     what each run was started with, and how it ended
    OUT/NAME/          what a run leaves, see docs/run-folder.md
    OUT/NAME.log       what it printed

A run that keeps a run folder has finished when its provenance says so; another one when sweep.json does.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas_osr.errors import UserError
from nas_osr.files.storage import file_errors, lock_folder, replace_file
from nas_osr.files.text import parse_json, read_text
from nas_osr.plain import plain
from nas_osr.runs import provenance
from nas_osr.runs.folder import RunFolder
from nas_osr.runs.names import PROGRAM
from nas_osr.runs.resumption import MAY_CHANGE
from nas_osr.sweeps.file import OUT, Run, Sweep

STATE = "sweep.json"
SCHEMA = 1
POLL_SECONDS = 0.1
ERROR_LENGTH = 500


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        status: finished, failed, or blocked (something that it needs has not finished).
        error: the last line that it printed, or what it waits for; "" when finished.
        skipped: whether it had finished before.
    """

    status: str
    error: str = ""
    skipped: bool = False


class SweepFolder:
    """The folder of a sweep, locked while it is used as a context manager.

    The lock is handed on to every run, so that runs which outlive a killed sweep keep the folder locked.

    Args:
        path: the folder; made when the first run starts.
        option_names: the options that a command has.
    """

    def __init__(self, path: str | Path, option_names: Callable[[str], set[str]]) -> None:
        self.path = Path(path)
        self.option_names = option_names
        self.records: dict[str, dict[str, Any]] = {}
        self._lock: int | None = None
        if (self.path / STATE).exists():
            state = parse_json(read_text(self.path / STATE), str(self.path / STATE))
            if (
                not isinstance(state, dict)
                or state.get("program") != PROGRAM
                or not isinstance(state.get("runs"), dict)
                or not all(map(is_record, state["runs"].values()))
            ):
                raise UserError(f"{self.path / STATE}: not the state of a sweep of nas-osr; choose another --out")
            self.records = state["runs"]
        elif self.path.is_dir() and any(entry.name != ".lock" for entry in self.path.iterdir()):
            raise UserError(f"{self.path}: not empty and not the folder of a sweep; choose another --out")

    def __enter__(self) -> SweepFolder:
        with file_errors(self.path, "create the folder of the sweep"):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = lock_folder(self.path)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

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
                old, new = (json.dumps(side[name]) if name in side else "not given" for side in (before, now))
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
        self.records[run.name] = {**self.records.get(run.name, {}), **entries}
        state = {"program": PROGRAM, "schema": SCHEMA, "runs": self.records}
        with replace_file(self.path / STATE) as file:
            file.write((json.dumps(state, indent=2, allow_nan=False) + "\n").encode())

    def start(self, run: Run, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start a run as a process of its own, out of reach of the terminal's Ctrl-C: the sweep passes that on."""
        assert self._lock is not None, "a sweep's folder is locked before anything starts"
        arguments = self.arguments(run)
        self.record(
            run, command=run.command, options=plain(run.options, run.name), status="running", error="",
            started=provenance.utc_now(), ended=None,
        )  # fmt: skip
        with file_errors(self.log(run), "write"), open(self.log(run), "ab") as log:
            log.write(f"$ {shlex.join([PROGRAM, *arguments])}\n".encode())
            log.flush()
            return subprocess.Popen(
                [sys.executable, "-m", "nas_osr", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
                pass_fds=(self._lock,),
            )

    def end(self, run: Run, process: subprocess.Popen[bytes], interrupted: bool = False) -> Outcome:
        """Write down how a process ended."""
        if process.returncode == 0:
            outcome = Outcome("finished")
        else:
            outcome = Outcome("failed", last_line(self.log(run)) or f"exit code {process.returncode}")
        status = "interrupted" if interrupted and outcome.error else outcome.status
        self.record(run, status=status, error=outcome.error, ended=provenance.utc_now())
        return outcome

    def log(self, run: Run) -> Path:
        """Where a run's output goes."""
        return self.path / f"{run.name}.log"


def run_sweep(
    sweep: Sweep,
    folder: SweepFolder,
    *,
    jobs: int = 1,
    only: Collection[str] | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Outcome]:
    """Run what has not finished yet, at most `jobs` at a time, and go on after failures.

    Args:
        sweep: checked runs, each after those that it needs.
        folder: locked (in a `with`).
        jobs: how many processes at a time.
        only: names of the runs to look at; what they need comes too. None is all.
        report: is told in a line what starts and ends.

    Returns:
        How each run ended, by name, in the order of the sweep.

    Raises:
        KeyboardInterrupt: the processes have been asked to save and have ended.
    """
    runs = {run.name: run for run in select(sweep, only)}
    outcomes = {name: Outcome("finished", skipped=True) for name in settled(runs, folder)}
    waiting = [run for run in runs.values() if run.name not in outcomes]
    active: dict[str, subprocess.Popen[bytes]] = {}
    environment = child_environment(jobs)
    with stopping_signals():
        try:
            while waiting or active:
                for run in list(waiting):
                    missing = [need for need in run.needs if outcomes.get(need, Outcome("")).status != "finished"]
                    lost = [need for need in missing if need in outcomes]
                    if lost:
                        outcomes[run.name] = Outcome("blocked", f"needs {lost[0]}, which has not finished")
                    elif missing or len(active) >= jobs:
                        continue
                    else:
                        started = len(outcomes) + len(active) + 1
                        report(f"[{started}/{len(runs)}] {run.name}: started, output in {folder.log(run)}")
                        active[run.name] = folder.start(run, environment)
                    waiting.remove(run)
                for name, process in list(active.items()):
                    if process.poll() is not None:
                        del active[name]
                        outcome = outcomes[name] = folder.end(runs[name], process)
                        report(f"{name}: {outcome.status}{': ' if outcome.error else ''}{outcome.error}")
                if active:
                    time.sleep(POLL_SECONDS)
        finally:
            stop(active, runs, folder, report)
    return {name: outcomes[name] for name in runs}


def is_record(value: Any) -> bool:
    """Whether a value from the state file is what `SweepFolder.start` writes down of a run."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("command"), str)
        and isinstance(value.get("options"), dict)
        and isinstance(value.get("status"), str)
    )


def select(sweep: Sweep, only: Collection[str] | None) -> list[Run]:
    """The runs of these names and what they need, in the order of the sweep."""
    wanted: set[str] = set()
    for run in reversed(sweep.runs):  # whoever needs a run comes after it
        if only is None or run.name in only or run.name in wanted:
            wanted |= {run.name, *run.needs}
    return [run for run in sweep.runs if run.name in wanted]


def settled(runs: Mapping[str, Run], folder: SweepFolder) -> set[str]:
    """The runs that have finished together with everything that they need; what rests on a new run is made anew."""
    done: set[str] = set()
    for run in runs.values():
        if folder.finished(run) and (folder.keeps_run(run) or done.issuperset(run.needs)):
            done.add(run.name)
    return done


def stop(
    active: dict[str, subprocess.Popen[bytes]],
    runs: Mapping[str, Run],
    folder: SweepFolder,
    report: Callable[[str], None],
) -> None:
    """Ask the processes to save and end, as Ctrl-C does, and wait for it; a second interruption kills them."""
    if not active:
        return
    report(f"ending {len(active)} {'run' if len(active) == 1 else 'runs'}: {', '.join(active)}")
    try:
        for process in active.values():
            process.send_signal(signal.SIGINT)
        for process in active.values():
            process.wait()
    except KeyboardInterrupt:
        for process in active.values():
            process.kill()
            process.wait()
    for name, process in active.items():
        folder.end(runs[name], process, interrupted=True)


@contextlib.contextmanager
def stopping_signals() -> Iterator[None]:
    """SIGTERM, and SIGHUP of a closed terminal, interrupt as Ctrl-C does; ones that are ignored stay ignored.

    Where Ctrl-C is ignored, as in the background of a script, it goes on being so here, but not in the runs, which are
    asked to end by that signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    changed = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            changed[number] = signal.signal(number, signal.default_int_handler)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        changed[signal.SIGINT] = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        yield
    finally:
        for number, handler in changed.items():
            signal.signal(number, handler)


def child_environment(jobs: int) -> dict[str, str]:
    """The environment of a run: the processor's cores shared out, and output written as it comes."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    cores = provenance.machine()["cores"]
    if jobs > 1 and isinstance(cores, int):
        environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // jobs)))
    return environment


def list_arguments(options: Mapping[str, Any], out: str) -> list[str]:
    """Options as command-line arguments, "{out}" replaced."""
    arguments = []
    for name, value in options.items():
        filled = replace_out(value, out)
        arguments.append(f"--{name}={filled if isinstance(filled, str) else json.dumps(filled, ensure_ascii=False)}")
    return arguments


def replace_out(value: Any, out: str) -> Any:
    """A value whose texts have the sweep's folder for "{out}"."""
    if isinstance(value, dict):
        return {key: replace_out(item, out) for key, item in value.items()}
    if isinstance(value, list):
        return [replace_out(item, out) for item in value]
    return value.replace("{" + OUT + "}", out) if isinstance(value, str) else value


def last_line(path: Path) -> str:
    """The last line of a log that says something, without the head that names the command."""
    with file_errors(path, "read"), open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 65536))
        lines = file.read().decode(errors="replace").splitlines()
    spoken = [line.strip() for line in lines if line.strip()]
    return spoken[-1][:ERROR_LENGTH] if spoken and not spoken[-1].startswith("$ ") else ""
