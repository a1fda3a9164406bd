"""Reading the files that a source's authors distribute: whole, bounded, and known by their checksum."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Sequence
from pathlib import Path

from nas_osr.errors import UserError

MAX_BYTES = 1 << 28  # of a file, unpacked; the largest official one has 182 MB


def read_whole(path: Path) -> bytes:
    """All bytes of a file, unpacked if its name ends with .gz. UserError when it is missing, damaged or too large."""
    if not path.is_file():
        raise UserError(f"{path} is missing: fetch and unpack the official archive again")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}; fetch the official file again") from error
    if len(content) > MAX_BYTES:
        raise UserError(f"{path} is larger than {MAX_BYTES >> 20} MiB: fetch the official file")
    return content


def has_checksum(content: bytes, md5: str) -> bool:
    """Whether these are the bytes of the official file: nobody can make another file of the same MD5 to this day."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest() == md5


def check_labels(labels: Sequence[int], count: int, path: Path) -> None:
    """UserError when a class id is not in 0..count-1."""
    if labels and not 0 <= min(labels) <= max(labels) < count:
        raise UserError(f"{path} has a label outside 0 to {count - 1}: fetch the official file again")
