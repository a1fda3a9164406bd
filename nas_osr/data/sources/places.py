"""Where a source's images lie: the data folder, a set's own folder in it, and the layouts that other people leave."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from nas_osr.errors import UserError
from nas_osr.files.paths import user_path

DATA_DIR_VARIABLE = "NAS_OSR_DATA"


@dataclass(frozen=True)
class Archive:
    """One file to fetch.

    Attributes:
        urls: the same file in several places, tried in order.
        md5: its checksum.
        unpack: it is a tar, zip or gz file to be unpacked (and then deleted, if it was fetched).
    """

    urls: tuple[str, ...]
    md5: str
    unpack: bool = True

    @property
    def name(self) -> str:
        """Of the file."""
        return self.urls[0].rsplit("/", 1)[-1]

    @property
    def stem(self) -> str:
        """The name of the folder that many programs unpack it into."""
        return self.name.removesuffix(".gz").removesuffix(".tar").removesuffix(".zip")


@dataclass(frozen=True)
class Location:
    """Where one part of a source was found: official files (one, or their folder), or a folder of class folders."""

    path: Path
    official: bool


def resolve_data_dir(data_dir: Path | None, create: bool = False) -> Path:
    """The data folder: the argument, else the environment variable NAS_OSR_DATA; `~` is the user's home.

    With `create` it is made if it is not there. Raises UserError if there is none.
    """
    value = data_dir if data_dir is not None else os.environ.get(DATA_DIR_VARIABLE)
    if not value:
        raise UserError(f"no data folder: give --data_dir, or set {DATA_DIR_VARIABLE}")
    folder = user_path(value)
    if create and not folder.exists():
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise UserError(
                f"data folder {folder} cannot be made: {error.strerror}; give another --data_dir"
            ) from error
    if folder.is_file():
        raise UserError(f"data folder {folder} is a file: give the folder that it lies in")
    if not folder.is_dir():
        raise UserError(f"data folder {folder} does not exist: create it, or give another --data_dir")
    return folder


def possible_places(folder: Path, bases: tuple[str, ...], inside: PurePath) -> Iterator[Path]:
    """Where something may lie that belongs at `inside` in a data folder, likelier places first.

    In the data folder itself or in one of `bases` in it; or the data folder is the thing itself, or a folder on the way
    to it: X/MNIST or X/MNIST/raw were given, where X was meant.
    """
    for base in ("", *bases):
        yield folder / base / inside
    here = Path(os.path.abspath(folder)).parts
    for depth in range(1, len(inside.parts) + 1):
        if here[-depth:] == inside.parts[:depth]:
            yield folder.joinpath(*inside.parts[depth:])
