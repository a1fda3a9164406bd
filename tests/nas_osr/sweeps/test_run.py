"""Whole sweeps, with a small command in the place of nas-osr's."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nas_osr.errors import UserError
from nas_osr.sweeps.executor import Resources
from nas_osr.sweeps.local import LocalExecutor, share_cores
from nas_osr.sweeps.run import run_sweep
from nas_osr.sweeps.sweep_file import Run, Sweep
from nas_osr.sweeps.sweep_folder import SweepFolder

OPTIONS = {"train": {"out", "resume", "alpha", "known", "epochs"}, "test": {"run", "rule"}}


def option_names(command: str) -> set[str]:
    return OPTIONS[command]


# A command says by its options what it does, and notes when it begins and ends.
COMMAND = """\
import json, os, signal, sys, time
from pathlib import Path

def command(arguments):
    options = dict(part[2:].split("=", 1) for part in arguments if part.startswith("--"))
    out = Path(options.get("out", "."))
    notes = open(options["known"], "a")
    print("begin", out.name, os.environ.get("OMP_NUM_THREADS"), file=notes, flush=True)
    times = Path(options["known"]).read_text().count(f"begin {out.name} ")
    if options.get("alpha") == "fail" or (options.get("alpha") == "twice" and times <= 2):
        print("something on the way", file=sys.stderr); print("the reason", file=sys.stderr); print(); sys.exit(3)
    if options.get("alpha") == "mistake":
        print("a mistake"); sys.exit(2)
    if options.get("alpha") == "interrupt":
        try:
            os.kill(os.getppid(), signal.SIGINT); time.sleep(60)
        except KeyboardInterrupt:
            (out.parent / "saved").touch(); sys.exit(130)
    time.sleep(float(options.get("epochs", 0)))
    if "out" in options:
        out.mkdir(exist_ok=True)
        (out / "provenance.json").write_text(json.dumps({"program": "nas-osr", "finished": "now"}))
    print("end", out.name, file=notes, flush=True)
"""


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the command, which can be imported inside, notes what it did."""
    (tmp_path / "sweep_command.py").write_text(COMMAND)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (tmp_path / "notes").touch()
    yield tmp_path / "notes"
    sys.modules.pop("sweep_command", None)


def start(sweep: Sweep, folder: SweepFolder, jobs: int = 1, **settings: Any) -> dict[str, str]:
    from sweep_command import command

    with folder.locked() as lock:
        executor = LocalExecutor(jobs, [lock])
        outcomes = run_sweep(sweep, folder, executor, command, share_cores(jobs), **settings)
    return {name: outcome.status for name, outcome in outcomes.items()}


def plan(notes: Path, *runs: tuple[str, dict[str, Any], tuple[str, ...]], command: str = "train") -> Sweep:
    return Sweep(
        "plan",
        "x",
        tuple(Run(name, command, {"known": str(notes), **options}, needs, "p:1") for name, options, needs in runs),
    )


def go(sweep: Sweep, notes: Path, **settings: Any) -> dict[str, str]:
    folder = SweepFolder(notes.parent / "out", lambda command: OPTIONS["train"] | OPTIONS["test"])
    folder.check_unchanged(sweep.runs)
    return start(sweep, folder, **settings)


def begun(notes: Path) -> list[str]:
    return re.findall(r"^begin (\S+)", notes.read_text(), flags=re.MULTILINE)


def test_failures_do_not_stop_the_others_and_finished_runs_are_skipped(notes: Path) -> None:
    sweep = plan(notes, ("a", {}, ()), ("b", {"alpha": "fail"}, ()), ("c", {}, ("b",)), ("d", {}, ("a",)))
    expected = {"a": "finished", "b": "failed", "c": "blocked", "d": "finished"}
    assert go(sweep, notes) == expected
    assert begun(notes) == ["a", "b", "d"]
    assert go(sweep, notes) == expected
    assert begun(notes) == ["a", "b", "d", "b"]
    state = json.loads((notes.parent / "out" / "sweep.json").read_text())["runs"]
    assert state["b"]["error"] == "the reason"
    assert state["b"]["status"] == "failed"
    repaired = plan(notes, ("a", {}, ()), ("b", {}, ()), ("c", {}, ("b",)), ("d", {}, ("a",)))
    assert set(go(repaired, notes).values()) == {"finished"}
    assert begun(notes)[4:] == ["b", "c"]
    log = (notes.parent / "out" / "b.log").read_text()
    assert log.count("$ nas-osr train") == 3


def test_what_rests_on_a_run_that_is_made_again_is_told(notes: Path) -> None:
    sweep, said = plan(notes, ("a", {}, ()), ("b", {}, ("a",))), list[str]()
    assert go(sweep, notes, report=said.append) == {"a": "finished", "b": "finished"}
    assert not any("stays as it is" in line for line in said)
    shutil.rmtree(notes.parent / "out" / "a")
    go(sweep, notes, report=said.append)
    assert any(line.startswith("b: has finished, and stays as it is, but a, which it rests on,") for line in said)
    assert begun(notes) == ["a", "b", "a"]


def test_only_some_and_what_they_need(notes: Path) -> None:
    sweep = plan(notes, ("a", {}, ()), ("b", {}, ("a",)), ("c", {}, ("b",)), ("d", {}, ()))
    assert go(sweep, notes, only={"b"}) == {"a": "finished", "b": "finished"}


def test_jobs_run_together_and_share_the_cores(notes: Path) -> None:
    sweep = plan(notes, *((name, {"epochs": 0.5}, ()) for name in "abc"))
    assert set(go(sweep, notes, jobs=2).values()) == {"finished"}
    events = notes.read_text().splitlines()
    assert [event.split()[0] for event in events[:3]] == ["begin", "begin", "end"]
    running = most = 0
    for event in events:
        running += 1 if event.startswith("begin") else -1
        most = max(most, running)
    assert most == 2
    threads = str(share_cores(2).cores)
    assert {event.split()[2] for event in events if event.startswith("begin")} == {threads}


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C is felt, as it is not in what a shell has started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interruption_lets_the_runs_save(notes: Path, interruptible: None) -> None:
    sweep = plan(notes, ("a", {}, ()), ("b", {"alpha": "interrupt"}, ()), ("c", {}, ()))
    with pytest.raises(KeyboardInterrupt):
        go(sweep, notes)
    assert (notes.parent / "out" / "saved").exists()
    state = json.loads((notes.parent / "out" / "sweep.json").read_text())["runs"]
    assert {name: record["status"] for name, record in state.items()} == {"a": "finished", "b": "interrupted"}


def test_a_run_that_died_is_started_again_and_a_mistake_is_not(notes: Path) -> None:
    sweep = plan(notes, ("a", {"alpha": "twice"}, ()), ("b", {"alpha": "mistake"}, ()), ("c", {}, ("a",)))
    assert go(sweep, notes, retries=1) == {"a": "failed", "b": "failed", "c": "blocked"}
    assert begun(notes) == ["a", "a", "b"]
    assert go(sweep, notes, retries=1) == {"a": "finished", "b": "failed", "c": "finished"}
    state = json.loads((notes.parent / "out" / "sweep.json").read_text())["runs"]
    assert state["b"]["error"] == "a mistake"


def test_a_command_without_a_run_folder_is_done_once_and_again_when_its_run_is(notes: Path) -> None:
    options: dict[str, Any] = {"run": "{out}/a"}
    trained = Run("a", "train", {"known": str(notes)}, (), "p:1")
    tested = Run("b", "test", {"known": str(notes), **options}, ("a",), "p:2")
    both = Sweep("plan", "x", (trained, tested))

    def names(command: str) -> set[str]:
        return OPTIONS[command]

    def sweep() -> list[str]:
        before = len(notes.read_text().splitlines())
        start(both, SweepFolder(notes.parent / "out", names))
        return notes.read_text().splitlines()[before::2]

    assert len(sweep()) == 2
    assert sweep() == []
    (notes.parent / "out" / "a" / "provenance.json").unlink()
    assert len(sweep()) == 2


def test_changed_options_of_a_run_that_is_there_are_refused(notes: Path) -> None:
    go(plan(notes, ("a", {"epochs": 0}, ()), ("b", {}, ())), notes)
    with pytest.raises(UserError, match=r"run a has finished with other options: epochs was 0 and is 0.1 now"):
        go(plan(notes, ("a", {"epochs": 0.1}, ()), ("b", {}, ())), notes)
    assert go(plan(notes, ("b", {}, ()), ("c", {}, ()), ("a", {"epochs": 0}, ())), notes) == {
        "b": "finished", "c": "finished", "a": "finished",
    }  # fmt: skip
    assert begun(notes) == ["a", "b", "c"]


def go_beside(sweep: Sweep, notes: Path, said: list[str], **settings: Any) -> dict[str, str]:
    """What one of the processes sees that share the sweep's folder."""
    from sweep_command import command

    folder = SweepFolder(notes.parent / "out", option_names, shared=True)
    with folder.locked() as lock:
        outcomes = run_sweep(sweep, folder, None, command, Resources(), report=said.append, hold=[lock], **settings)
    return {name: outcome.status for name, outcome in outcomes.items()}


def test_processes_share_a_sweep_and_each_run_is_made_once(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas_osr.sweeps.shared.SECONDS", 0.02)
    tested = Run("e", "test", {"known": str(notes), "run": "{out}/a"}, ("a",), "p:1")
    runs = plan(notes, ("a", {"epochs": 0.3}, ()), ("b", {"alpha": "fail"}, ()), ("c", {}, ("b",)), ("d", {}, ())).runs
    sweep, seen = Sweep("plan", "x", (*runs, tested)), list[Any]()
    said: list[list[str]] = [[], []]
    threads = [threading.Thread(target=lambda n=n: seen.append(go_beside(sweep, notes, said[n]))) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    expected = {"a": "finished", "b": "failed", "c": "blocked", "d": "finished", "e": "finished"}
    assert seen == [expected, expected]
    assert sorted(begun(notes)) == ["a", "b", "d"] and notes.read_text().count("begin  ") == 1
    assert all(any(line.endswith(": finished elsewhere") for line in lines) for lines in said)
    state = json.loads((notes.parent / "out" / "sweep.json").read_text())["runs"]
    assert {name: record["status"] for name, record in state.items()} == {
        "a": "finished", "b": "failed", "d": "finished", "e": "finished",
    }  # fmt: skip
    assert [path.name for path in (notes.parent / "out").glob("*.claim")] == ["sweep.json.claim"]
    # the same command again tries again what has failed, also in a folder that nobody shares
    assert go_beside(sweep, notes, []) == expected and sorted(begun(notes)) == ["a", "b", "b", "d"]
    assert start(sweep, SweepFolder(notes.parent / "out", option_names)) == expected
    assert sorted(begun(notes)) == ["a", "b", "b", "b", "d"] and notes.read_text().count("begin  ") == 1


def test_what_a_killed_process_had_claimed_is_made_by_another(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas_osr.sweeps.shared.SECONDS", 0.02)
    sweep = plan(notes, ("a", {"epochs": 60}, ()), ("b", {}, ()))
    code = f"""import sys; sys.path[:0] = {[str(notes.parent), str(Path(__file__).parents[3])]!r}
from pathlib import Path
from nas_osr.sweeps.executor import Resources
from nas_osr.sweeps.run import run_sweep
from nas_osr.sweeps.sweep_file import Run, Sweep
from nas_osr.sweeps.sweep_folder import SweepFolder
from sweep_command import command
folder = SweepFolder({str(notes.parent / "out")!r}, lambda command: {OPTIONS["train"]!r}, shared=True)
with folder.locked() as lock:
    run_sweep({sweep!r}, folder, None, command, Resources(), hold=[lock])
"""
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    try:
        while begun(notes) != ["a"]:
            time.sleep(0.02)
            assert process.poll() is None
        with pytest.raises(UserError, match="in use by another nas-osr process"):
            go(sweep, notes)
        (child,) = children(process.pid)
    finally:
        process.kill()
        process.wait()
    os.kill(child, signal.SIGKILL)
    short = plan(notes, ("a", {"epochs": 0}, ()), ("b", {}, ()))
    assert go_beside(short, notes, []) == {"a": "finished", "b": "finished"}
    assert sorted(begun(notes)) == ["a", "a", "b"]


def children(number: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{number}/task/{number}/children").read_text().split()]


def test_processes_that_share_a_sweep_want_the_same(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas_osr.sweeps.shared.SECONDS", 0.02)
    folder = SweepFolder(notes.parent / "out", option_names, shared=True)
    (run,) = plan(notes, ("a", {"alpha": "1"}, ())).runs
    assert folder.ended_elsewhere(run) is None
    go_beside(plan(notes, ("a", {"alpha": "1"}, ())), notes, [])
    assert folder.ended_elsewhere(run) == {"status": "finished", "error": ""}
    (other,) = plan(notes, ("a", {"alpha": "2"}, ())).runs
    with pytest.raises(UserError, match='run a has other options in another process: alpha was "1" and is "2" now'):
        folder.ended_elsewhere(other)


def test_a_folder_is_shared_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = [SweepFolder(tmp_path, option_names, shared=True) for _ in range(2)]
    alone = SweepFolder(tmp_path, option_names)
    with together[0].locked(), together[1].locked(), pytest.raises(UserError, match="in use"):
        alone.locked().__enter__()
    with alone.locked(), pytest.raises(UserError, match="in use"):
        together[0].locked().__enter__()
    monkeypatch.setattr("nas_osr.files.locks.lock_file", lambda descriptor, shared=False: False)
    with pytest.raises(UserError, match="processes share it by locks, which its file system has not"):
        together[0].locked().__enter__()


def test_a_folder_of_something_else_or_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(UserError, match="not the folder of a sweep"):
        SweepFolder(tmp_path / "other", option_names)
    other = SweepFolder(tmp_path / "mine", option_names)
    with SweepFolder(tmp_path / "mine", option_names).locked(), pytest.raises(UserError, match="in use"):
        other.locked().__enter__()
    with SweepFolder(tmp_path / "mine", option_names).locked():
        pass
    (tmp_path / "mine" / "sweep.json").write_text("{}")
    with pytest.raises(UserError, match="not the state of a sweep"):
        SweepFolder(tmp_path / "mine", option_names)
    assert os.listdir(tmp_path / "other") == ["thesis.tex"]


@pytest.mark.parametrize(
    "record", [1, None, {}, {"command": "train"}, {"command": 1, "options": {}, "status": "finished"}]
)
def test_a_broken_state_is_told(record: Any, tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text(json.dumps({"program": "nas-osr", "runs": {"a": record}}))
    with pytest.raises(UserError, match="sweep.json: not the state of a sweep"):
        SweepFolder(tmp_path, option_names)
