"""Jobs on a local Ray of two workers."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nas_osr.cli.main import main
from nas_osr.errors import UserError
from nas_osr.sweeps.backends import open_executor
from nas_osr.sweeps.executor import Job, Resources, Result

pytestmark = pytest.mark.slow
ray = pytest.importorskip("ray")

TASKS = """\
import os, signal, sys, time
import torch
from nas_osr.errors import UserError

def double(x):
    return 2 * x

def fail(how):
    if how == "mistake":
        raise UserError("no such thing")
    raise ValueError("not expected")

def third_time(path):
    with open(path, "a") as file:
        file.write("x")
    if os.path.getsize(path) < 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return os.path.getsize(path)

def leave(how):
    print("the reason")
    if how["code"] is None:
        raise ValueError("not expected")
    sys.exit(how["code"])

def describe(_):
    return [os.getpid(), os.getcwd(), torch.get_num_threads(), os.environ.get("CUDA_VISIBLE_DEVICES")]

def save(folder):
    open(f"{folder}/started", "w").close()
    try:
        for _ in range(3000):
            time.sleep(0.1)
    except KeyboardInterrupt:
        open(f"{folder}/saved", "w").close()
        raise
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "ray_tasks.py").write_text(TASKS)
    sys.path.insert(0, str(folder))
    assert "RAY_ADDRESS" not in os.environ
    yield importlib.import_module("ray_tasks")
    sys.path.remove(str(folder))
    del sys.modules["ray_tasks"]
    ray.shutdown()


def test_jobs_end_with_values_mistakes_and_errors_and_a_killed_worker_is_replaced(tasks: Any, tmp_path: Path) -> None:
    said: list[str] = []
    executor = open_executor("ray", 2, said.append)
    values = [result.value for result in executor.map(tasks.double, [Job(str(n), n) for n in range(5)], Resources())]
    assert sorted(values) == [0, 2, 4, 6, 8]

    jobs = [Job("a", "mistake"), Job("b", "other")]
    errors = {result.job.name: result.error for result in executor.map(tasks.fail, jobs, Resources(), retries=0)}
    assert errors["a"] == "no such thing" and "not expected" in errors["b"]

    (again,) = executor.map(tasks.third_time, [Job("c", str(tmp_path / "count"))], Resources(), retries=2)
    assert again.value == 3 and len(said) == 2 and all(line.startswith("c: run again after") for line in said)

    def waiting() -> Iterator[Job | None]:
        """The second job rests on the first one's result."""
        yield Job("first", 1)
        while not seen:
            yield None
        yield Job("second", seen[0])

    seen: list[int] = []
    for result in executor.map(tasks.double, waiting(), Resources()):
        seen.append(result.value)
    assert seen == [2, 4]


def test_what_a_job_prints_and_how_it_ends(tasks: Any, tmp_path: Path) -> None:
    said: list[str] = []
    executor, codes = open_executor("ray", 2, said.append), {"mistake": 2, "died": 3, "bug": None}
    jobs = [Job(name, {"code": code}, tmp_path / f"{name}.log") for name, code in codes.items()]
    errors = {result.job.name: result.error for result in executor.map(tasks.leave, jobs, Resources(), retries=1)}
    assert errors == {"mistake": "the reason", "died": "the reason", "bug": "not expected"}
    assert {line.partition(":")[0] for line in said} == {"died", "bug"}  # a mistake is final
    assert (tmp_path / "mistake.log").read_text() == "the reason\n"
    assert (tmp_path / "died.log").read_text() == "the reason\n" * 2
    assert "ValueError: not expected" in (tmp_path / "bug.log").read_text()


def test_each_job_has_a_process_in_this_folder_with_its_threads(tasks: Any) -> None:
    jobs = [Job(str(number), None) for number in range(2)]
    found = [result.value for result in open_executor("ray", 1, print).map(tasks.describe, jobs, Resources(1))]
    assert len({number for number, *_ in found}) == 2
    assert {tuple(rest[:2]) for _, *rest in found} == {(os.getcwd(), 1)}


def test_an_interruption_lets_a_job_save(tasks: Any, tmp_path: Path) -> None:
    said: list[str] = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def jobs() -> Iterator[Job | None]:
        yield Job("saves", str(tmp_path))
        while not (tmp_path / "started").exists():
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)
        yield None

    found: list[Result] = []

    def collect() -> None:
        for result in open_executor("ray", 2, said.append).map(tasks.save, jobs(), Resources()):
            found.append(result)

    try:
        with pytest.raises(KeyboardInterrupt):
            collect()
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "saved").exists() and said == ["ending saves"]
    assert [(result.job.name, result.interrupted) for result in found] == [("saves", True)]


def test_a_sweep_goes_to_its_end(tasks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run ends well, one with a mistake; what they print is in their logs, wherever they ran."""
    monkeypatch.chdir(tmp_path)
    runs = ("a, command: rules, options: {}", "b, command: score, options: {file: nowhere.npz, rule: msp}")
    (tmp_path / "plan.yaml").write_text("\n".join(["about: x", "runs:", *(f"  - {{name: {run}}}" for run in runs)]))
    with pytest.raises(SystemExit, match="1"):
        main(["sweep", "plan.yaml", "--backend=ray", "--jobs=2", "--cpus_per_job=1", "--retries=1", "--out=out"])
    state = json.loads((tmp_path / "out" / "sweep.json").read_text())["runs"]
    assert {name: record["status"] for name, record in state.items()} == {"a": "finished", "b": "failed"}
    assert "nowhere.npz" in state["b"]["error"]
    assert "mahalanobis" in (tmp_path / "out" / "a.log").read_text()
    assert (tmp_path / "out" / "b.log").read_text().count("nowhere.npz") == 2  # the command, and why; once


def test_what_no_machine_has_is_refused_here(tasks: Any) -> None:
    for resources, message in (
        (Resources(1000), "cpus_per_job: a job asks for 1000"),
        (Resources(1, 0.5), "gpus_per_job: a job asks for 0.5"),
    ):
        with pytest.raises(UserError, match=message):
            list(open_executor("ray", 1, print).map(tasks.double, [Job("a", 1)], resources))


def test_a_cluster_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    ray.shutdown()
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UserError, match=r"RAY_ADDRESS 127\.0\.0\.1:1: no Ray cluster answers there"):
        list(open_executor("ray", 1, print).map(str, [Job("a", 1)], Resources()))
