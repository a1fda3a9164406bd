"""Locks on folders, so that no two processes write into one: `flock`, or a file that names its owner."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import platform
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas_osr.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

LOCK = ".lock"
OWNER = ".lock.owner"
LOCKS = (LOCK, OWNER)
NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}


class FolderInUse(UserError):
    """Another process has the folder."""


@dataclass(frozen=True)
class FolderLock:
    """A lock that this process holds on a folder; it ends with the process.

    Attributes:
        descriptor: of the file that is locked. Processes that inherit it hold the lock, too.
        owner: the file that says who has the folder, where the file system has no locks. It outlives a process that is
            killed, and is taken over from one that has gone from this machine.
    """

    descriptor: int
    owner: Path | None = None

    def close(self) -> None:
        """Give the folder free."""
        if self.owner is not None:
            self.owner.unlink(missing_ok=True)
        os.close(self.descriptor)


def lock_folder(path: Path, shared: bool = False) -> FolderLock:
    """Lock a folder. UserError when another process, or another lock of this one, has it.

    `shared` lets others have it that share it, too; UserError where the file system has no locks.
    """
    while True:
        descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not lock_file(descriptor, shared):
                if shared:
                    raise UserError(f"{path}: processes share it by locks, which its file system has not")
                return FolderLock(descriptor, own_folder(path))
            if os.path.exists(path / LOCK) and os.path.samestat(os.fstat(descriptor), os.stat(path / LOCK)):
                return FolderLock(descriptor)
        except BlockingIOError:
            os.close(descriptor)
            message = f"{path}: in use by another nas-osr process; wait for it or choose another --out"
            raise FolderInUse(message) from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the last owner took the file away in between: lock the new one


def lock_file(descriptor: int, shared: bool = False) -> bool:
    """Lock an open file; False where there are no such locks. BlockingIOError when another process has it, unless both
    share it."""
    if fcntl is None:
        return False  # type: ignore[unreachable]
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


def own_folder(path: Path) -> Path:
    """The file that says that this process has the folder, made just now. UserError when another one has it."""
    file, me = path / OWNER, {"host": platform.node(), "pid": os.getpid()}
    while True:
        try:
            with open(file, "x") as made:
                made.write(json.dumps(me))
        except FileExistsError:
            take_away(file, path)
            continue
        logger.warning(
            "%s: the file system has no locks: %s keeps other processes out, and may be left by one that is killed",
            path,
            file.name,
        )
        return file


def take_away(file: Path, path: Path) -> None:
    """Remove the file of an owner that has gone. UserError unless it is sure to have."""
    owner = read_owner(file)
    if owner is None:
        return
    host, pid = owner.get("host"), owner.get("pid")
    if host != platform.node() or not isinstance(pid, int) or is_running(pid):
        raise UserError(
            f"{path}: in use by process {pid} of {host}; wait for it, choose another --out, or, if it has gone, "
            f"remove {file}"
        )
    aside = file.with_name(f".{file.name}.{secrets.token_hex(4)}.tmp")
    with contextlib.suppress(FileNotFoundError):  # another process was faster
        os.replace(file, aside)
        if read_owner(aside) != owner:  # and has made its own meanwhile, which was moved
            os.replace(aside, file)
            raise UserError(f"{path}: in use by another nas-osr process; wait for it or choose another --out")
        aside.unlink()
        logger.warning("%s: taken over from process %d, which has gone", path, pid)


def read_owner(file: Path) -> dict[str, Any] | None:
    """Who has a folder; {} where the file does not say, None where there is none."""
    try:
        found = json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def is_running(pid: int) -> bool:
    """Whether there is such a process on this machine, as far as can be told: on Windows any number is one."""
    if os.name == "nt":  # signal 0 would be Ctrl-C there
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
