"""Reading the files that a source's authors distribute: whole, bounded, and known by their checksum."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path

from nas_osr.errors import UserError

MAX_BYTES = 1 << 28  # of a file, unpacked; the largest official one has 182 MB


def read_whole(path: Path) -> bytes:
    """All bytes of a file, unpacked if its name ends with .gz. UserError when it is missing, damaged or too large."""
    if not path.is_file():
        raise UserError(
            f"{path} is missing: fetch and unpack the official archive again, or let "
            "`nas-osr data prepare` do that with --download"
        )
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}; fetch the official file again") from error
    if len(content) > MAX_BYTES:
        raise UserError(f"{path} is larger than {MAX_BYTES >> 20} MiB: fetch the official file")
    return content


def read_official(path: Path, md5: str, source: str) -> bytes:
    """The same of a file that a reader opens which could be made to crash or to run code: the official one alone.

    Nobody can make another file of the same MD5 to this day. Raises UserError when the checksum is another.
    """
    content = read_whole(path)
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise UserError(
            f"{path} is not the official file, or damaged (its checksum is another): move it away and run "
            f"`nas-osr data prepare {source} --download`, or lay the images out as {source}/{{train,test}}/CLASS/*.png"
        )
    return content
