"""Unpacks downloaded archives: plain files and folders alone, all of them below one folder, and not without end."""

from __future__ import annotations

import gzip
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

from nas_osr.errors import UserError

MAX_BYTES = 4 << 30
MAX_MEMBERS = 1_000_000
_CHUNK = 1 << 20

# (name, how to open it; None for a folder)
Member = tuple[str, Callable[[], IO[bytes] | None] | None]


def unpack(archive: Path, folder: Path) -> None:
    """Write what is in a .zip, a .tar, .tar.gz or .tgz, or a .gz file below `folder`, which is new and empty.

    Python's own extraction is safe against some of this, in some versions. Here names that lead elsewhere, links and
    devices are refused, before anything of theirs is written, and permissions are not taken over.

    Raises:
        UserError: damaged, or a member is refused, or there is more than 4 GiB in it; names the archive.
    """
    try:
        if archive.name.endswith(".zip"):
            with zipfile.ZipFile(archive) as opened:
                _write(list(_zip_members(opened)), folder)
        elif archive.name.endswith((".tar", ".tar.gz", ".tgz")):
            with tarfile.open(archive) as opened_tar:
                _write(_tar_members(opened_tar), folder)
        elif archive.name.endswith(".gz"):
            _write([(archive.name.removesuffix(".gz"), partial(gzip.open, archive))], folder)  # type: ignore[list-item]
        else:
            raise ValueError("neither zip, tar nor gz")
    except UserError:
        raise
    except Exception as error:  # the many ways in which a broken archive shows itself
        raise UserError(
            f"{archive.name} cannot be unpacked: {' '.join(str(error).split()) or type(error).__name__}"
        ) from error


def _zip_members(archive: zipfile.ZipFile) -> Iterator[Member]:
    for info in archive.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ValueError(f"{info.filename[:80]!a} is neither a file nor a folder")
        yield info.filename, None if info.is_dir() else partial(archive.open, info)


def _tar_members(archive: tarfile.TarFile) -> Iterator[Member]:
    for info in archive:
        if not (info.isreg() or info.isdir()):  # symbolic and hard links, devices, pipes
            raise ValueError(f"{info.name[:80]!a} is neither a file nor a folder")
        yield info.name, None if info.isdir() else partial(archive.extractfile, info)


def _write(members: Any, folder: Path) -> None:
    """Write members below a folder that has no links in it."""
    total = 0
    for number, (name, open_member) in enumerate(members):
        parts = PurePosixPath(name).parts
        if not name or "\\" in name or "\x00" in name or name.startswith("/") or ".." in parts:
            raise ValueError(f"the name {name[:80]!a} leads out of the folder")
        if number >= MAX_MEMBERS:
            raise ValueError(f"more than {MAX_MEMBERS} files")
        path = folder.joinpath(*parts)
        if open_member is None:
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_member() as source, path.open("xb") as target:  # a name twice is refused
            while chunk := source.read(_CHUNK):
                total += len(chunk)
                if total > MAX_BYTES:
                    raise ValueError(f"more than {MAX_BYTES >> 30} GiB when unpacked")
                target.write(chunk)
