"""Jobs that several processes have alike: each is done once, and those of a killed process are done by another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nas_osr.errors import UserError
from nas_osr.sweeps import shared
from nas_osr.sweeps.executor import Job, Resources, Result
from nas_osr.sweeps.shared import SharedExecutor, try_claim

TASKS = """\
import os, signal, time
from pathlib import Path

def leave(task):
    folder, name = Path(task["folder"]), task["name"]
    with open(folder / "begun", "a") as file:
        file.write(name + "\\n")
    if task["kill"] and not (folder / f"killed-{name}").exists():
        (folder / f"killed-{name}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.1)
    (folder / f"{name}.done").write_text(name)
    return name
"""


@pytest.fixture
def leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Any]:
    (tmp_path / "shared_tasks.py").write_text(TASKS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(shared, "SECONDS", 0.02)
    import shared_tasks

    sys.modules.pop("shared_tasks")
    return shared_tasks.leave  # type: ignore[no-any-return]


def run(folder: Path, leave: Callable[[Any], Any], count: int, kill: bool = False, retries: int = 0) -> list[Result]:
    """What one of the processes sees."""

    def settled(job: Job) -> str | None:
        file = folder / f"{job.name}.done"
        return file.read_text() if file.exists() else None

    executor = SharedExecutor(lambda job: folder / f"{job.name}.claim", settled, lambda line: None)
    jobs = [Job(str(n), {"folder": str(folder), "name": str(n), "kill": kill}) for n in range(count)]
    return [*executor.map(leave, iter(jobs), Resources(), retries)]


def test_each_job_is_done_once(tmp_path: Path, leave: Callable[[Any], Any]) -> None:
    seen: list[list[Result]] = [[], []]

    def work(place: int) -> None:
        seen[place] = run(tmp_path, leave, 6)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    for results in seen:
        assert sorted(result.value for result in results) == [str(number) for number in range(6)]
    assert sorted((tmp_path / "begun").read_text().split()) == [str(number) for number in range(6)]
    assert not [*tmp_path.glob("*.claim")]


def test_a_job_whose_process_dies_is_done_again(tmp_path: Path, leave: Callable[[Any], Any]) -> None:
    (result,) = run(tmp_path, leave, 1, kill=True)
    assert result.error.startswith("exit code") and [*tmp_path.glob("*.claim")]
    (tmp_path / "killed-0").unlink()
    (result,) = run(tmp_path, leave, 1, kill=True, retries=1)
    assert result.value == "0" and not [*tmp_path.glob("*.claim")]


def test_a_claim_ends_with_its_process(tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path; from nas_osr.sweeps.shared import try_claim\n"
    code += (
        f"kept = try_claim(Path({str(tmp_path / 'a.claim')!r})); print(kept is not None, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(shared.__file__).parents[2])
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"True\n"
        assert try_claim(tmp_path / "a.claim") is None
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    claim = try_claim(tmp_path / "a.claim")
    assert claim is not None
    claim.close(settled=True)
    assert not (tmp_path / "a.claim").exists()


def test_what_waits_looks_and_what_is_done_elsewhere_is_heard_of(
    tmp_path: Path, leave: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process has the claim; then it has done the job."""
    claim, looks = try_claim(tmp_path / "0.claim"), []
    assert claim is not None

    def look() -> None:
        looks.append(time.monotonic())
        if len(looks) == 3:
            (tmp_path / "0.done").write_text("by another")

    def jobs() -> Iterator[Job | None]:
        yield None
        yield Job("0", {"folder": str(tmp_path), "name": "0", "kill": False})

    def settled(job: Job) -> str | None:
        return (tmp_path / "0.done").read_text() if (tmp_path / "0.done").exists() else None

    executor = SharedExecutor(lambda job: tmp_path / "0.claim", settled, lambda line: None, look)
    assert [result.value for result in executor.map(leave, jobs(), Resources())] == ["by another"]
    assert len(looks) == 3 and not (tmp_path / "begun").exists()
    claim.close(settled=False)


def test_without_locks_nothing_is_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "lock_file", lambda descriptor: False)
    with pytest.raises(UserError, match="its file system has not: use --backend ray"):
        try_claim(tmp_path / "a.claim")
