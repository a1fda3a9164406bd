"""Several trials at a time: in whatever order they end, and however often they are interrupted."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import nas_osr
from nas_osr.errors import UserError
from nas_osr.runs.run_folder import RunFolder
from nas_osr.strategies.trials import pool
from nas_osr.sweeps.executor import Job, Resources, Result

OPTIONS: dict[str, Any] = {
    "protocol": "digits", "preset": "tiny", "layers": 3, "channels": 16, "epochs": 2, "batch_size": 8, "seed": 3,
    "limit_per_class": 20, "objective": "cross_entropy", "device": "cpu", "threads": 1, "quiet": True, "jobs": 2,
    "strategy": "halving", "strategy_config": {"trials": 7, "factor": 2},
}  # fmt: skip
COMPARED = ("architecture.json", "config.yaml", "history.jsonl")


class Scrambled:
    """An executor that runs jobs in this process, the last of those that are there first."""

    def __init__(self, processes: int, most: int = 10**9, first: bool = False) -> None:
        self.processes, self.left, self.first = processes, most, first

    def map(
        self, function: Callable[[Any], Any], jobs: Iterator[Job | None], resources: Resources, retries: int = 0
    ) -> Iterator[Result]:
        running: list[Job] = []
        more = True
        while more or running:
            while more and len(running) < self.processes:
                job = next(jobs, ...)
                more = job is not ...
                if not isinstance(job, Job):
                    break
                running.append(job)
            if running:
                job = running.pop(0 if self.first else -1)
                value = function(json.loads(json.dumps(job.argument)))
                self.left -= 1
                if self.left < 0:  # it has ended, and its result is heard of by nobody
                    raise KeyboardInterrupt
                yield Result(job, value)


def search(out: Path, monkeypatch: pytest.MonkeyPatch, **executor: Any) -> dict[str, Any]:
    monkeypatch.setattr(pool, "open_executor", lambda backend, jobs, report: Scrambled(jobs, **executor))
    return nas_osr.search(**OPTIONS, out=str(out), resume="auto")


def test_the_order_in_which_trials_end_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search(tmp_path / "last", monkeypatch)
    search(tmp_path / "first", monkeypatch, first=True)
    for most in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            search(tmp_path / "cut", monkeypatch, most=most)
    search(tmp_path / "cut", monkeypatch)
    expected = {name: (tmp_path / "last" / name).read_bytes() for name in COMPARED}
    for folder in ("first", "cut"):
        assert {name: (tmp_path / folder / name).read_bytes() for name in COMPARED} == expected
        assert not (tmp_path / folder / "trials").exists()
    history = RunFolder.open(tmp_path / "last").read_history()
    assert any(record["follows"] is not None for record in history)


def test_what_has_ended_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "run", monkeypatch, most=0)
    (left,) = (tmp_path / "run" / "trials").glob("*.json")
    assert json.loads(left.read_text())["record"]["epoch"] == 1  # the second ended first
    made: list[int] = []
    try_one = pool.try_one
    monkeypatch.setattr(pool, "try_one", lambda task: (made.append(task["trial"]), try_one(task))[1])
    search(tmp_path / "run", monkeypatch)
    assert sorted(made) == [0, 2, 3, 4, 5, 6]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["local", "ray"])
def test_processes_that_are_killed_cost_nothing(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search itself is killed in the middle, and one of its workers later."""
    if backend == "ray":
        pytest.importorskip("ray")
    search(tmp_path / "whole", monkeypatch)
    monkeypatch.undo()
    out = tmp_path / "run"
    code = f"import nas_osr; nas_osr.search(**{OPTIONS!r}, backend={backend!r}, out={str(out)!r}, resume='auto')"

    begun: list[subprocess.Popen[bytes]] = []

    def begin() -> subprocess.Popen[bytes]:
        begun.append(subprocess.Popen([sys.executable, "-c", code], cwd=Path(nas_osr.__file__).parents[1]))
        return begun[-1]

    try:
        first = begin()
        wait_for(lambda: (out / "history.jsonl").exists() and (out / "history.jsonl").read_text().count("\n") >= 1)
        first.send_signal(signal.SIGKILL)
        first.wait()
        second = begin()
        workers = children if backend == "local" else ray_workers
        wait_for(lambda: workers(second.pid))
        os.kill(workers(second.pid)[0], signal.SIGKILL)
        assert second.wait(timeout=400) == 0
    finally:
        for process in begun:
            process.kill()
    for name in COMPARED:
        whole = (tmp_path / "whole" / name).read_text()
        assert (out / name).read_text() == whole.replace("backend: local", f"backend: {backend}"), name


@pytest.mark.slow
def test_processes_share_a_folder_and_one_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that keeps the search is killed with its trial, as when a machine goes; the other takes both up."""
    options = {**OPTIONS, "strategy_config": {"trials": 3, "factor": 2}}
    monkeypatch.setitem(OPTIONS, "strategy_config", options["strategy_config"])
    search(tmp_path / "whole", monkeypatch)
    monkeypatch.undo()
    out = tmp_path / "run"
    code = f"import nas_osr; print(nas_osr.search(**{options!r}, backend='shared', out={str(out)!r})['f1'])"
    command, place = [sys.executable, "-c", code], Path(nas_osr.__file__).parents[1]
    begun = [subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        wait_for(lambda: len([*out.glob("trial-*.claim")]) == 2)  # one trial each
        keeper = next(process for process in begun if str(process.pid) in holder(out / ".lock"))
        (other,) = (process for process in begun if process is not keeper)
        for number in [keeper.pid, *children(keeper.pid)]:
            os.kill(number, signal.SIGKILL)
        printed, _ = other.communicate(timeout=1200)
        assert other.returncode == 0
        late = subprocess.run(command, cwd=place, stdout=subprocess.PIPE, text=True, timeout=600, check=True)
        assert late.stdout == printed  # a process that comes late is told the result
    finally:
        for process in begun:
            process.kill()
    for name in COMPARED:
        whole = (tmp_path / "whole" / name).read_text()
        assert (out / name).read_text() == whole.replace("backend: local", "backend: shared"), name
    assert not (out / "trials").exists() and not [*out.glob("trial-*.claim")]


@pytest.mark.parametrize(("more", "message"), [({"jobs": 1}, "say with --jobs"), ({"overwrite": True}, "--overwrite")])
def test_what_cannot_be_shared(more: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        nas_osr.search(**{**OPTIONS, **more}, backend="shared", out=str(tmp_path / "run"))


def holder(path: Path) -> list[str]:
    """The processes that hold a lock on a file, by /proc/locks."""
    number = str(path.stat().st_ino)
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return [fields[4] for fields in lines if fields[1] == "FLOCK" and fields[5].endswith(f":{number}")]


def ray_workers(number: int) -> list[int]:
    """Those that run a task, of the Ray that a process has started."""
    found = []
    for child in children(number):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            busy = Path(f"/proc/{child}/cmdline").read_bytes().startswith(b"ray::run_task")
            found += ([child] if busy else []) + ray_workers(child)
    return found


def wait_for(ready: Callable[[], Any]) -> None:
    for _ in range(3000):
        if ready():
            return
        time.sleep(0.1)
    raise AssertionError("it has not come so far")


def children(parent: int) -> list[int]:
    """The processes that a process has started."""
    found = []
    for listed in Path(f"/proc/{parent}/task").glob("*/children"):  # by the thread that started them
        with contextlib.suppress(OSError):  # it has ended meanwhile
            found += [int(number) for number in listed.read_text().split()]
    return found
