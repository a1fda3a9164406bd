"""Downloads of the official archives."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from nas_osr.data.sources.base import Archive, Source
from nas_osr.errors import UserError


def download_source(source: Source, folder: Path) -> None:
    """Fetch a source into the data folder; nothing appears there under its own name before it is complete and checked.

    Raises:
        UserError: nothing to download, no connection, a wrong checksum, or something of that name is already there.
    """
    if not source.archives:
        raise UserError(f"there is nothing to download for {source.name}")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as temporary:
        for archive in source.archives:
            _fetch(archive, Path(temporary), source.name)
        target = folder / source.archive_folder
        found = sorted(Path(temporary).iterdir())
        for path in found:
            if (target / path.name).is_dir():
                raise UserError(f"{target / path.name} is already there: move it away, then download again")
        target.mkdir(parents=True, exist_ok=True)
        for path in found:
            os.replace(path, target / path.name)


def _fetch(archive: Archive, folder: Path, source: str) -> None:
    """Download to a folder, from the first address that works; what has the official checksum is unpacked there."""
    from torchvision.datasets.utils import download_and_extract_archive, download_url  # type: ignore[import-untyped]

    failures = []
    for url in archive.urls:
        name = url.rsplit("/", 1)[-1]
        try:
            if archive.unpack:
                download_and_extract_archive(url, str(folder), None, name, archive.md5, remove_finished=True)
            else:
                download_url(url, str(folder), name, archive.md5)
            return
        except (OSError, RuntimeError) as error:  # no connection; wrong checksum
            failures.append(f"{url}: {' '.join(str(error).split())}")
    raise UserError(f"{source} cannot be downloaded ({'; '.join(failures)}): check the connection, or fetch it by hand")
