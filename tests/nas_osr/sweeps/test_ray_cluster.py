"""Jobs on a local Ray of two workers."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nas_osr.errors import UserError
from nas_osr.sweeps.backends import open_executor
from nas_osr.sweeps.executor import Job, Resources

pytestmark = pytest.mark.slow
ray = pytest.importorskip("ray")

TASKS = """\
import os, signal
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


def test_a_cluster_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    ray.shutdown()
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UserError, match=r"RAY_ADDRESS 127\.0\.0\.1:1: no Ray cluster answers there"):
        list(open_executor("ray", 1, print).map(str, [Job("a", 1)], Resources()))
