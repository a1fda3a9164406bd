"""Real processes that are killed, asked to end, run out of disk, or meet each other."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # and so on the path of the processes

import harness  # noqa: E402
from processes import finish, launch, wait_until  # noqa: E402

pytestmark = pytest.mark.slow

EVERY_EPOCH = ["--checkpoint_minutes=0"]
SEARCH = [*harness.SCENARIOS["search-pas"], *EVERY_EPOCH, "--epochs=3"]
RETRAIN = [*harness.RETRAIN, "--objective=cross_entropy", "--splits=0-1", *EVERY_EPOCH, "--epochs=3"]


def test_five_kills_leave_the_same_bits() -> None:
    command = [sys.executable, str(HERE / "harness.py"), "--kills", "5", "--seed", "3", "--scenarios"]
    done = subprocess.run(
        [*command, "search-pas", "search-random", "retrain-gan", "retrain-moco"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert result["kills"] >= 5 and result["different"] == {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a search and a retraining that nobody disturbed."""
    folder = tmp_path_factory.mktemp("runs")
    running = [
        launch([*arguments, f"--out={folder / name}"], folder / f"{name}.log")
        for name, arguments in (("search", SEARCH), ("retrain", RETRAIN))
    ]
    assert [finish(process) for process in running] == [0, 0], [log.read_text() for log in folder.glob("*.log")]
    return folder


def lines(path: Path) -> int:
    """How many there are; 0 where there is no file."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def resume(log: Path) -> None:
    """Do what the last line of a log says, and expect it to end well."""
    command = shlex.split(log.read_text().splitlines()[-1].partition("resume with: ")[2])
    assert command[0] == "nas-osr" and command[-2:] == ["--resume", "auto"], log.read_text()
    assert finish(launch(command[1:], log)) == 0, log.read_text()


@pytest.mark.parametrize(
    ("name", "arguments", "number", "code"),
    [("search", SEARCH, signal.SIGTERM, 143), ("retrain", RETRAIN, signal.SIGINT, 130)],
    ids=["SIGTERM", "Ctrl-C"],
)
def test_a_signal_saves_and_tells_how_to_resume(
    folder: Path, tmp_path: Path, name: str, arguments: list[str], number: int, code: int
) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    part = out if name == "search" else out / "split-1"
    process = launch([*arguments, f"--out={out}"], log)
    wait_until(lambda: lines(part / "timing.jsonl") >= 1 and (part / "checkpoint.pt").exists(), process)
    settled = {path: path.stat().st_mtime_ns for path in out.glob("split-0/*")}
    assert process.pid is not None
    os.kill(process.pid, number)
    assert finish(process) == code
    text = log.read_text()
    assert "Traceback" not in text and text.count("resume with") == 1
    assert harness.load(part / "checkpoint.pt")["epoch"] + 1 == lines(part / "history.jsonl")
    resume(log)
    assert harness.differences(folder / name, out) == []
    assert settled == {path: path.stat().st_mtime_ns for path in out.glob("split-0/*")}


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    process = launch([*SEARCH, f"--out={out}", "--checkpoint_minutes=1e-9"], log, slow=0.5)
    wait_until((out / "checkpoint.pt").exists, process)
    assert process.pid is not None
    before = (out / "checkpoint.pt").read_bytes()
    os.kill(process.pid, signal.SIGTERM)
    wait_until(lambda: log.exists() and "second signal" in log.read_text(), process)
    os.kill(process.pid, signal.SIGTERM)
    assert finish(process) == 143
    kept = [path.read_bytes() for path in (out / "checkpoint.pt", out / "checkpoint.previous.pt") if path.exists()]
    assert before in kept and not list(out.glob(".*.tmp"))
    assert "Traceback" not in log.read_text() and "resume with: nas-osr search" in log.read_text()


def test_ctrl_c_reaches_all_jobs_of_a_search_which_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    """As a terminal has it: every process of the group gets the signal."""
    out, log = tmp_path / "run", tmp_path / "log"
    trials = [*harness.SCENARIOS["search-random"], "--strategy_config.trials=6", "--epochs=2", "--jobs=2"]
    with log.open("w") as text:
        process = subprocess.Popen(
            [sys.executable, "-m", "nas_osr", *trials, f"--out={out}"], stdout=text, stderr=text, start_new_session=True
        )
        until = time.monotonic() + 300
        while lines(out / "history.jsonl") < 1:
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 130
    assert lines(out / "history.jsonl") < 6 and "Traceback" not in log.read_text(), log.read_text()
    resume(log)
    whole = tmp_path / "whole"
    assert finish(launch([*trials, f"--out={whole}"], tmp_path / "whole.log")) == 0
    assert harness.differences(whole, out) == []


def begin(out: Path, log: Path) -> None:
    """A search that ended after its first epoch."""
    process = launch([*SEARCH, f"--out={out}"], log)
    wait_until((out / "checkpoint.pt").exists, process)
    process.kill()
    assert finish(process) == -signal.SIGKILL


def small_file_system(path: Path, options: str) -> None:
    """Mount one in memory, or skip the test."""
    path.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")


@pytest.mark.parametrize("kind", ["quota", "full disk"])
def test_a_full_disk_is_one_line_and_leaves_the_last_checkpoint(folder: Path, tmp_path: Path, kind: str) -> None:
    disk, log = tmp_path / "disk", tmp_path / "log"
    begin(disk / "run", tmp_path / "first.log")
    out = disk / "run"
    checkpoint = (out / "checkpoint.pt").read_bytes()
    again = [*SEARCH, "--resume=auto"]
    if kind == "quota":
        process = launch([*again, f"--out={out}"], log, largest_file=len(checkpoint) - 4096)
        assert finish(process) == 2
        said = "checkpoint.pt: cannot write: File too large"
    else:
        small_file_system(tmp_path / "small", f"size={len(checkpoint) + 500_000}")
        try:
            shutil.copytree(out, tmp_path / "small" / "run", ignore=shutil.ignore_patterns(".*", "*.previous.pt"))
            (tmp_path / "small" / "run" / ".lock").touch()
            process = launch([*again, f"--out={tmp_path / 'small' / 'run'}"], log)
            assert finish(process) == 2, log.read_text()
            shutil.rmtree(out)
            shutil.copytree(tmp_path / "small" / "run", out)
        finally:
            subprocess.run(["umount", str(tmp_path / "small")], check=True)
        said = "cannot write: No space left on device; free some space"
    assert said in log.read_text() and lines(log) == 1, log.read_text()
    assert (out / "checkpoint.pt").read_bytes() == checkpoint
    assert not list(out.glob(".*.tmp")) and (out / "history.jsonl").read_bytes().endswith(b"}\n")
    assert finish(launch([*again, f"--out={out}"], log)) == 0
    assert harness.differences(folder / "search", out) == []


def test_a_read_only_folder_is_one_line(tmp_path: Path) -> None:
    log, disk = tmp_path / "log", tmp_path / "disk"
    if os.geteuid() == 0:  # whom no permissions stop
        small_file_system(disk, "size=1m,ro")
    else:
        disk.mkdir(mode=0o555)
    try:
        assert finish(launch([*SEARCH, f"--out={disk / 'run'}"], log)) == 2
        assert not list(disk.iterdir())
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", str(disk)], check=True)
    assert "cannot create the run folder: " in log.read_text() and "another folder" in log.read_text()
    assert lines(log) == 1


def test_a_folder_that_goes_away_is_one_line_and_goes_on_where_it_went(folder: Path, tmp_path: Path) -> None:
    out, moved, log = tmp_path / "run", tmp_path / "moved", tmp_path / "log"
    process = launch([*RETRAIN, f"--out={out}"], log)
    wait_until((out / "split-0" / "checkpoint.pt").exists, process)
    out.rename(moved)
    assert finish(process) == 2
    assert "No such file or directory" in log.read_text() and lines(log) == 1, log.read_text()
    assert not out.exists()
    assert finish(launch([*RETRAIN, f"--out={moved}", "--resume=auto"], log)) == 0
    assert harness.differences(folder / "retrain", moved) == []


def test_a_second_run_into_the_folder_is_refused_while_the_first_goes_on(folder: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    first = launch([*SEARCH, f"--out={out}"], tmp_path / "first.log")
    wait_until((out / "provenance.json").exists, first)
    assert first.pid is not None
    os.kill(first.pid, signal.SIGSTOP)  # it is not to end too soon; its lock stays
    try:
        for wish in ("--resume=auto", "--overwrite"):
            assert finish(launch([*SEARCH, f"--out={out}", wish], log)) == 2
    finally:
        os.kill(first.pid, signal.SIGCONT)
    assert log.read_text().count("in use by another nas-osr process") == 2 and lines(log) == 2
    assert finish(first) == 0
    assert harness.differences(folder / "search", out) == []


def test_twenty_parallel_evaluations_agree_and_leave_whole_files(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(folder / "retrain", out)
    before = {path.name: path.read_bytes() for path in (out / "split-0").iterdir() if path.is_file()}
    assert {"metrics.json", "predictions.csv"} <= before.keys()
    arguments = ["evaluate", str(out / "split-0"), "--device=cpu", "--threads=1", "--bootstrap=0", "--json"]
    logs = [tmp_path / f"{index}.log" for index in range(20)]
    for start in range(0, 20, 4):
        running = [launch(arguments, log) for log in logs[start : start + 4]]
        assert [finish(process) for process in running] == [0] * 4
    assert len({log.read_text() for log in logs}) == 1 and '"auroc"' in logs[0].read_text()
    assert before == {path.name: path.read_bytes() for path in (out / "split-0").iterdir() if path.is_file()}


def test_the_configuration_of_a_run_repeats_it(folder: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "new", tmp_path / "log"
    assert finish(launch(["search", f"--config={folder / 'search' / 'config.yaml'}", f"--out={out}"], log)) == 0
    assert harness.differences(folder / "search", out) == []
