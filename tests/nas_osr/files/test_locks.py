"""A folder belongs to one process, on file systems with locks and without."""

from __future__ import annotations

import errno
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from nas_osr.errors import UserError
from nas_osr.files import locks, storage
from nas_osr.files.locks import LOCK, OWNER, lock_folder
from nas_osr.files.storage import append_line, replace_file
from nas_osr.runs.names import is_run_folder
from nas_osr.runs.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(params=["flock", "ENOLCK", "EOPNOTSUPP", "ENOSYS", "no fcntl"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which locks the file system has."""
    if request.param == "no fcntl":
        monkeypatch.setattr(locks, "fcntl", None)
    elif request.param != "flock":

        def refuse(descriptor: int, how: int) -> None:
            raise OSError(getattr(errno, request.param), "not here")

        monkeypatch.setattr("fcntl.flock", refuse)
    return request.param


def test_a_folder_has_one_owner_at_a_time(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = lock_folder(tmp_path)
    with pytest.raises(UserError, match="in use by"):
        lock_folder(tmp_path)
    assert (first.owner is None) == (kind == "flock") == (not caplog.records)
    assert kind == "flock" or "the file system has no locks" in caplog.text
    first.close()
    assert not (tmp_path / OWNER).exists()
    lock_folder(tmp_path).close()


def test_a_run_leaves_no_lock_behind(kind: str, tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "left") as run:
        assert is_run_folder(run.path)
    assert not run.path.exists()
    with RunFolder.create(tmp_path / "kept") as run:
        run.provenance(["nas-osr"], {})
        with pytest.raises(UserError, match="in use by"):
            RunFolder.create(tmp_path / "kept", resume=True)
    assert sorted(path.name for path in run.path.iterdir()) == [LOCK, "config.yaml", "provenance.json"]
    with RunFolder.create(tmp_path / "kept", overwrite=True) as run:
        run.provenance(["nas-osr"], {})
        assert (run.path / OWNER).exists() == (kind != "flock")


@pytest.fixture
def gone() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def write_owner(folder: Path, **owner: object) -> None:
    (folder / OWNER).write_text(json.dumps(owner))


def test_what_a_killed_process_left_is_taken_over(
    gone: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(locks, "fcntl", None)
    write_owner(tmp_path, host=platform.node(), pid=gone)
    lock = lock_folder(tmp_path)
    assert f"taken over from process {gone}" in caplog.text
    assert json.loads((tmp_path / OWNER).read_text())["pid"] == os.getpid()
    lock.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [LOCK]


@pytest.mark.parametrize("owner", [{"host": "elsewhere", "pid": 1}, {"host": platform.node(), "pid": 1}, {}])
def test_what_may_be_alive_is_left_alone(
    owner: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "fcntl", None)
    write_owner(tmp_path, **owner)
    with pytest.raises(UserError, match=f"in use by .*remove {tmp_path}/{OWNER}"):
        lock_folder(tmp_path)
    assert json.loads((tmp_path / OWNER).read_text()) == owner


def test_an_owner_that_was_faster_keeps_the_folder(gone: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between looking at a dead owner's file and moving it away, another process has taken the folder over."""
    monkeypatch.setattr(locks, "fcntl", None)
    write_owner(tmp_path, host=platform.node(), pid=gone)
    really = locks.is_running

    def meanwhile(pid: int) -> bool:
        write_owner(tmp_path, host=platform.node(), pid=1)
        return really(pid)

    monkeypatch.setattr(locks, "is_running", meanwhile)
    with pytest.raises(UserError, match="in use by another"):
        lock_folder(tmp_path)
    assert json.loads((tmp_path / OWNER).read_text())["pid"] == 1


def test_a_file_system_that_cannot_sync_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    storage.warn_of_no_sync.cache_clear()
    for text in (b"one", b"two"):
        with replace_file(tmp_path / "file") as file:
            file.write(text)
        append_line(tmp_path / "lines", "line\n")
    assert (tmp_path / "file").read_bytes() == b"two" and (tmp_path / "lines").read_text() == "line\nline\n"
    assert len(caplog.records) == 2 and "a power cut may cost" in caplog.text  # files, and folders
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(errno.EIO, "I/O error")))
    with pytest.raises(UserError, match="cannot write: I/O error"), replace_file(tmp_path / "file") as file:
        file.write(b"three")
    assert (tmp_path / "file").read_bytes() == b"two"


def test_nothing_needs_what_only_posix_has() -> None:
    """Modules, functions and signals that Windows, and in part macOS, do not have."""
    code = (
        "import importlib, os, pkgutil, signal, sys\n"
        "import lightning_fabric, matplotlib.pyplot, networkx, numpy, scipy.stats, sklearn.datasets, torch\n"
        "for name in ('fcntl', 'resource', 'termios', 'pwd', 'grp', 'tty', 'pty'): sys.modules[name] = None\n"
        "for name in ('sched_getaffinity', 'O_CLOEXEC', 'O_DIRECTORY', 'getuid', 'geteuid', 'uname', 'sysconf'):\n"
        "    delattr(os, name)\n"
        "for name in ('SIGHUP', 'SIGUSR1', 'SIGUSR2', 'SIGALRM', 'SIGKILL', 'SIGPIPE'): delattr(signal, name)\n"
        "import nas_osr\n"
        "for found in pkgutil.walk_packages(nas_osr.__path__, 'nas_osr.'):\n"
        "    if not found.name.endswith('__main__'): importlib.import_module(found.name)\n"
        "from nas_osr.cost.steps import peak_memory\n"
        "from nas_osr.runs.provenance import machine\n"
        "from nas_osr.sweeps.local import stopping_signals\n"
        "with stopping_signals(): pass\n"
        "print(peak_memory(torch.device('cpu')), machine()['cores'] >= 1)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0 and done.stdout == "0 True\n", done.stderr
