"""Files of long runs: written whole or not at all, locked, and read without running anything from them."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import IO, Any

from nas_osr.errors import UserError
from nas_osr.files.text import parse_object, read_text
from nas_osr.files.yaml_text import MAX_YAML_BYTES, parse_yaml

MAX_RECORDS_BYTES = 1 << 30
NO_SYNC = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def replace_file(path: Path, keep_as: Path | None = None) -> Iterator[IO[bytes]]:
    """A file to write under a temporary name, renamed to `path` once it is whole and on the disk.

    Args:
        path: where it goes.
        keep_as: where the file that was there before goes, if that is wanted.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")  # threads and containers share numbers
    with file_errors(path, "write"):
        try:
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                sync(file.fileno(), "files")
            if keep_as is not None and path.exists():
                os.replace(path, keep_as)
            os.replace(temporary, path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def append_line(path: Path, line: str) -> None:
    """Append to a file, on the disk when this returns; a file that cannot take all of it is left as it was.

    Raises:
        UserError: the disk refuses.
    """
    data = line.encode()
    with file_errors(path, "write"), open(path, "ab", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            while data:
                data = data[file.write(data) :]
            sync(file.fileno(), "files")
        except OSError:
            file.truncate(size)
            raise


def sync_folder(path: Path) -> None:
    """Make renames in a folder survive a power cut, where the system lets one ask for it."""
    if os.name == "nt":  # which opens no folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        sync(descriptor, "folders")
    finally:
        os.close(descriptor)


def sync(descriptor: int, what: str) -> None:
    """Wait until something is on the disk; one warning where the file system cannot say."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
        warn_of_no_sync(what)


@cache
def warn_of_no_sync(what: str) -> None:
    """Say once that a power cut may cost the last files."""
    logger.warning("the file system cannot say when %s are on the disk: a power cut may cost what was saved last", what)


@contextlib.contextmanager
def os_errors() -> Iterator[None]:
    """Turn what the operating system refuses of a file that it names into a UserError of one line."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise
        named = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
        raise UserError(f"{named}: {os_message(error)}") from error


@contextlib.contextmanager
def file_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn what the operating system refuses into a UserError of one line."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot {doing}: {os_message(error)}") from error
    except RuntimeError as error:  # torch wraps what its file object raised
        if isinstance(error.__context__, OSError):
            raise UserError(f"{path}: cannot {doing}: {os_message(error.__context__)}") from error
        raise


def os_message(error: OSError) -> str:
    """What the operating system says, and how to mend it where that is the same for everyone."""
    hints = {
        errno.ENOSPC: "; free some space and go on with --resume auto",
        errno.EDQUOT: "; free some space and go on with --resume auto",
        errno.EROFS: "; make it writable or choose another folder",
        errno.EACCES: "; you need the right to it, or another folder",
        errno.ENAMETOOLONG: "; choose a shorter one",
        errno.ELOOP: "; a link there leads back to itself",
    }
    return f"{error.strerror or error}{hints.get(error.errno or 0, '')}"


def read_config(path: str | Path) -> dict[str, Any]:
    """A configuration file in YAML, safely loaded. Raises UserError when it is missing, broken or no mapping."""
    value = parse_yaml(read_text(path, MAX_YAML_BYTES), str(path))
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UserError(f"{path}: expected `name: value` lines")
    return value


def read_records(path: str | Path) -> list[dict[str, Any]]:
    """The records of a .jsonl file; [] when there is none; a last line cut short by a crash is left out.

    Raises:
        UserError: a whole line is not a JSON object.
    """
    if not Path(path).exists():
        return []
    lines = read_text(path, MAX_RECORDS_BYTES).split("\n")
    return [parse_object(line, f"{path} line {number}") for number, line in enumerate(lines[:-1], start=1)]


def json_line(record: Mapping[str, Any]) -> str:
    """One line of a .jsonl file."""
    return json.dumps(record, sort_keys=True, allow_nan=False) + "\n"
