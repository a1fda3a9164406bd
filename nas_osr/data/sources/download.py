"""Official archives: fetched, or found in the data folder, and unpacked once they are known to be sound."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from nas_osr.data.sources.base import Source
from nas_osr.data.sources.places import Archive
from nas_osr.errors import UserError
from nas_osr.files.storage import file_errors


def sound_archives(source: Source) -> tuple[dict[Archive, Path], list[Path]]:
    """Which archives of a source lie in the data folder with their official checksum, and which files are not so."""
    sound, others = {}, []
    for archive, path in source.packed().items():
        with file_errors(path, "read"), path.open("rb") as file:
            digest = hashlib.md5(usedforsecurity=False)
            while block := file.read(1 << 20):
                digest.update(block)
        if digest.hexdigest() == archive.md5:
            sound[archive] = path
        else:
            others.append(path)
    return sound, others


def download_source(source: Source, folder: Path, local: Mapping[Archive, Path] | None = None) -> None:
    """Bring a source into the data folder; nothing appears there under its own name before it is complete and checked.

    A folder of official files that is there already is mended: each official file replaces the one of its name.

    Args:
        local: archives that need not be fetched; they are left where they are.

    Raises:
        UserError: nothing to download, no connection, a wrong checksum, or the folder cannot be written.
    """
    if not source.archives:
        raise UserError(f"there is nothing to download for {source.name}")
    with file_errors(folder, "write"):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as temporary:
            for archive in source.archives:
                _unpack(archive, (local or {}).get(archive), Path(temporary), source.name)
            _move_files(Path(temporary), folder / source.archive_folder)


def _move_files(source: Path, target: Path) -> None:
    """Rename what a folder holds into another one, file by file where there is a folder of that name."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        if path.is_dir() and (target / path.name).is_dir():
            _move_files(path, target / path.name)
        else:
            os.replace(path, target / path.name)


def _unpack(archive: Archive, local: Path | None, folder: Path, source: str) -> None:
    """Unpack to a folder what lies on the disk, or else what comes from the first address that works, once checked."""
    from torchvision.datasets.utils import (  # type: ignore[import-untyped]
        download_and_extract_archive,
        download_url,
        extract_archive,
    )

    if local is not None:
        extract_archive(str(local), str(folder))
        return
    failures = []
    for url in archive.urls:
        try:
            if archive.unpack:
                download_and_extract_archive(url, str(folder), None, archive.name, archive.md5, remove_finished=True)
            else:
                download_url(url, str(folder), archive.name, archive.md5)
            return
        except (OSError, RuntimeError) as error:  # no connection; wrong checksum
            failures.append(f"{url}: {' '.join(str(error).split())}")
    raise UserError(f"{source} cannot be downloaded ({'; '.join(failures)}): check the connection, or fetch it by hand")
