"""Jobs in processes of this machine."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nas_osr.errors import UserError
from nas_osr.sweeps.executor import Job, Resources, Result, succeeded
from nas_osr.sweeps.local import INTERRUPTED, START, LocalExecutor, share_cores, visible_gpus

TASKS = """\
import os, signal, sys, time
from nas_osr.errors import UserError

def double(x):
    return 2 * x

def describe(_):
    return [sys.stdin.read(), os.environ.get("OMP_NUM_THREADS"), os.getpid() == os.getsid(0)]

def which_gpu(seconds):
    time.sleep(seconds)
    return os.environ.get("CUDA_VISIBLE_DEVICES")

def fail(how):
    print("before the end")
    if how == "mistake":
        raise UserError("no such thing")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "large":
        return "x" * 10**6
    raise ValueError("not expected")

def third_time(path):
    with open(path, "a") as file:
        file.write("x")
    if os.path.getsize(path) < 3:
        os._exit(7)
    return os.path.getsize(path)

def wait(folder):
    try:
        open(f"{folder}/started", "w").close()
        time.sleep(60)
    except KeyboardInterrupt:
        open(f"{folder}/saved", "w").close()
        return "saved"

def sleep(folder):
    open(f"{folder}/started", "w").close()
    time.sleep(60)
"""


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    (tmp_path / "json.py").write_text("raise RuntimeError('a file of the working folder was imported')")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sweep_tasks.py").write_text(TASKS)
    monkeypatch.syspath_prepend(str(tmp_path / "path"))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    yield importlib.import_module("sweep_tasks")
    del sys.modules["sweep_tasks"]


def ended(function: Any, *arguments: Any, processes: int = 2, retries: int = 0, cores: int = 0) -> list[Result]:
    jobs = [Job(str(index), argument) for index, argument in enumerate(arguments)]
    results = LocalExecutor(processes).map(function, jobs, Resources(cores), retries)
    return sorted(results, key=lambda result: int(result.job.name))


def test_every_job_is_called_once_in_a_process_of_its_own(tasks: Any) -> None:
    assert [result.value for result in ended(tasks.double, 1, "ab", [3])] == [2, "abab", [3, 3]]
    assert ended(tasks.describe, None)[0].value == ["", None, True]
    assert ended(tasks.describe, None, cores=3)[0].value == ["", "3", True]
    assert len(ended(tasks.fail, "large")[0].value) == 10**6


def test_cores_are_shared_out_unless_the_user_has_said(tasks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas_osr.sweeps.local.machine", lambda: {"cores": 8})
    assert [share_cores(processes).cores for processes in (1, 3, 9)] == [0, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert share_cores(3).cores == 0
    assert ended(tasks.describe, None)[0].value[1] == "5"


def test_each_job_sees_the_gpu_that_has_the_fewest(tasks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four jobs at a time on three GPUs; the fifth takes the place of the one that ends first."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,GPU-a")
    jobs = [Job(str(number), seconds) for number, seconds in enumerate((20, 0.1, 20, 20))]
    results = LocalExecutor(4).map(tasks.which_gpu, jobs, Resources(devices=("3", "5", "GPU-a")))
    assert next(results).value == "5"
    results.close()
    jobs = [Job(str(number), 0) for number in range(2)]
    found = {result.value for result in LocalExecutor(2).map(tasks.which_gpu, jobs, Resources(devices=("3", "5")))}
    assert found == {"3", "5"}
    assert {result.value for result in ended(tasks.which_gpu, 0, 0)} == {"3,5,GPU-a"}


def test_the_gpus_that_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == ("0", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-b,-1,0")  # what follows a wrong one is not visible
    assert visible_gpus() == ("4", "GPU-b")


def test_what_fails_says_why_and_the_others_go_on(tasks: Any, tmp_path: Path) -> None:
    jobs = [Job(how, how, tmp_path / f"{how}.log") for how in ("mistake", "kill", "bug")]
    found = {result.job.name: result for result in LocalExecutor(3).map(tasks.fail, jobs, Resources())}
    errors = {"mistake": "no such thing", "kill": "before the end", "bug": "ValueError: not expected"}
    assert {name: result.error for name, result in found.items()} == errors
    assert (tmp_path / "bug.log").read_text().startswith("before the end\nTraceback")
    assert ended(tasks.fail, "kill")[0].error == "exit code -9"


def test_a_process_that_dies_is_started_again_so_many_times(tasks: Any, tmp_path: Path) -> None:
    assert ended(tasks.third_time, str(tmp_path / "a"), retries=1)[0].error == "exit code 7"
    assert ended(tasks.third_time, str(tmp_path / "b"), retries=2)[0].value == 3
    assert ended(tasks.fail, "mistake", retries=9)[0].error == "no such thing"


def test_jobs_may_rest_on_results(tasks: Any) -> None:
    """Each is made of the one before; the source is asked only when that is there."""
    values: list[int] = [1]

    def jobs() -> Iterator[Job | None]:
        for index in range(3):
            while len(values) <= index:
                yield None
            yield Job(str(index), values[index])

    for result in LocalExecutor(2).map(tasks.double, jobs(), Resources()):
        values.append(result.value)
    assert values == [1, 2, 4, 8]
    with pytest.raises(ValueError, match="no job is ready"):
        list(LocalExecutor(2).map(tasks.double, [None], Resources()))


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C is felt, as it is not in what a shell has started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def waiting_jobs(folder: Path) -> Iterator[Job | None]:
    """One that waits to be ended, and, once that has started, one that fails."""
    yield Job("waits", str(folder))
    while not (folder / "started").exists():
        time.sleep(0.01)
    yield Job("fails", str(folder / "missing"))


def test_a_function_that_no_other_process_finds_is_refused() -> None:
    with pytest.raises(UserError, match="<lambda> is found by no other process: put it at the top of a module"):
        ended(lambda value: value, 1)


def test_an_interruption_asks_the_jobs_to_end_and_hands_out_what_they_made(
    tasks: Any, tmp_path: Path, interruptible: None
) -> None:
    said: list[str] = []
    found = {}

    def jobs() -> Iterator[Job | None]:
        yield from waiting_jobs(tmp_path)
        os.kill(os.getpid(), signal.SIGINT)
        yield None

    def collect() -> None:
        for result in LocalExecutor(3, report=said.append).map(tasks.wait, jobs(), Resources()):
            found[result.job.name] = (result.value, result.interrupted)

    with pytest.raises(KeyboardInterrupt):
        collect()
    assert found == {"waits": ("saved", False), "fails": (None, True)}
    assert said == ["ending waits, fails"]


def test_who_takes_what_succeeds_is_interrupted_and_told_of_no_failure(
    tasks: Any, tmp_path: Path, interruptible: None
) -> None:
    log = tmp_path / "log"

    def jobs() -> Iterator[Job | None]:
        yield Job("sleeps", str(tmp_path), log)
        while not (tmp_path / "started").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        yield None

    with pytest.raises(KeyboardInterrupt):
        list(succeeded(LocalExecutor(2).map(tasks.sleep, jobs(), Resources())))
    assert log.read_text() == ""
    with pytest.raises(UserError, match="0: no such thing"):
        list(succeeded(ended(tasks.fail, "mistake")))


def test_a_job_that_is_interrupted_while_it_is_started_ends_in_silence(tmp_path: Path) -> None:
    package = tmp_path / "nas_osr" / "sweeps"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    (package / "local.py").write_text(f"import time; open({str(tmp_path / 'started')!r}, 'w'); time.sleep(60)")
    process = subprocess.Popen([sys.executable, "-c", START, "job", str(tmp_path), *sys.path], stderr=subprocess.PIPE)
    while not (tmp_path / "started").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert (process.communicate()[1], process.returncode) == (b"", INTERRUPTED)


def test_who_looks_away_ends_the_jobs(tasks: Any, tmp_path: Path) -> None:
    with contextlib.closing(LocalExecutor(2).map(tasks.wait, waiting_jobs(tmp_path), Resources())) as results:
        assert next(results).job.name == "fails"
        assert not (tmp_path / "saved").exists()
    assert (tmp_path / "saved").exists()


def test_the_jobs_of_the_docs_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "many-trainings.md").read_text()
    (code,) = re.findall(r"```python\n(# my_trials\.py\n.*?)```", page, flags=re.DOTALL)
    (tmp_path / "my_trials.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    trials = importlib.import_module("my_trials")
    try:
        found = trials.try_all(epochs=1)
    finally:
        del sys.modules["my_trials"]
    assert [(name, type(value)) for name, value in found] == [("random:0", float), ("random:1", float)], found
    assert sorted(path.name for path in tmp_path.glob("*.log")) == ["random:0.log", "random:1.log"]
