"""Downloads of the official archives, with torchvision's addresses, checksums and layout."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from nas_osr.data.sources.archives import unpack
from nas_osr.errors import UserError


@dataclass(frozen=True)
class Archive:
    """One file to fetch.

    Attributes:
        urls: the same file in several places, tried in order.
        md5: its checksum.
        unpack: it is a tar, zip or gz file to be unpacked (and then deleted).
    """

    urls: tuple[str, ...]
    md5: str
    unpack: bool = True


def list_archives(source: str) -> tuple[str, list[Archive]]:
    """Where the source's files go below the data folder, and which files to fetch."""
    from torchvision import datasets  # type: ignore[import-untyped]

    if source in ("cifar10", "cifar100"):
        cifar = datasets.CIFAR10 if source == "cifar10" else datasets.CIFAR100
        return ".", [Archive((cifar.url,), cifar.tgz_md5)]
    if source in ("mnist", "fashion-mnist"):
        mnist = datasets.MNIST if source == "mnist" else datasets.FashionMNIST
        archives = [Archive(tuple(base + name for base in mnist.mirrors), md5) for name, md5 in mnist.resources]
        return f"{mnist.__name__}/raw", archives
    if source == "svhn":
        files = datasets.SVHN.split_list
        return ".", [Archive((files[part][0],), files[part][2], unpack=False) for part in ("train", "test")]
    if source == "tinyimagenet":
        url = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
        return ".", [Archive((url,), "90528d7ca1a48142e341f4ef8d21d0de")]
    raise UserError(f"there is nothing to download for {source}")


def download_source(source: str, folder: Path) -> None:
    """Fetch a source into the data folder; nothing appears there under its own name before it is complete and checked.

    Raises:
        UserError: no connection, a wrong checksum, or something of that name is already there.
    """
    subfolder, archives = list_archives(source)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as temporary:
        for archive in archives:
            _fetch(archive, Path(temporary), source)
        target = folder / subfolder
        found = sorted(Path(temporary).iterdir())
        for path in found:
            if (target / path.name).is_dir():
                raise UserError(f"{target / path.name} is already there: move it away, then download again")
        target.mkdir(parents=True, exist_ok=True)
        for path in found:
            os.replace(path, target / path.name)


def _fetch(archive: Archive, folder: Path, source: str) -> None:
    """Download to a folder and unpack there, from the first address that works."""
    from torchvision.datasets.utils import download_url  # type: ignore[import-untyped]

    failures = []
    for url in archive.urls:
        name = url.rsplit("/", 1)[-1]
        try:
            download_url(url, str(folder), name, archive.md5)
        except (OSError, RuntimeError) as error:  # no connection; wrong checksum
            failures.append(f"{url}: {' '.join(str(error).split())}")
            continue
        if archive.unpack:
            unpack(folder / name, folder)
            (folder / name).unlink()
        return
    raise UserError(f"{source} cannot be downloaded ({'; '.join(failures)}): check the connection, or fetch it by hand")
