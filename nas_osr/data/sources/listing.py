"""Which folders are classes and which files images; what is passed over is counted, never dropped in silence."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from nas_osr.files.storage import file_errors

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".avif",
    ".heic", ".heif",
)  # fmt: skip
# What unpacking, file servers and operating systems leave behind; hidden ones begin with a dot.
_NO_CLASSES = frozenset({"__macosx", "@eadir", "lost+found", "$recycle.bin", "system volume information"})
_LEFT_BEHIND = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini"})


class PassedOver:
    """What was found among the images and not used.

    Attributes:
        folders: their names and why, e.g. "empty (no image in it)".
        files: reason -> number, e.g. "hidden" -> 3.
    """

    def __init__(self) -> None:
        self.folders: dict[str, None] = {}  # a set that keeps its order
        self.files: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return bool(self.folders or self.files)

    def __str__(self) -> str:
        """E.g. "folders __MACOSX, cat/old (no image in it); files: 3 hidden, 2 damaged"."""
        listed = list(self.folders)
        more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
        files = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.files.items()))
        parts = (f"folders {', '.join(listed[:5])}{more}" if listed else "", f"files: {files}" if files else "")
        return "; ".join(filter(None, parts))

    def add(self, other: PassedOver) -> None:
        """Take over what another has counted."""
        self.folders.update(other.folders)
        self.files.update(other.files)


def list_class_folders(folder: Path, passed: PassedOver | None = None) -> list[str]:
    """Names of the class folders, sorted: those with an image in them or below, and no system's own.

    Args:
        folder: what holds them.
        passed: takes what is passed over beside them.

    Raises:
        UserError: the folder cannot be listed.
    """
    passed = PassedOver() if passed is None else passed
    names = []
    for name, path in _entries(folder):
        if not os.path.isdir(path):
            passed.files[_why_not(name) or "not in a class folder"] += 1
        elif _is_system(name):
            passed.folders[name] = None
        elif next(_walk(path, PassedOver(), (), set()), None) is None:
            passed.folders[f"{name} (no image in it)"] = None
        else:
            names.append(name)
    return names


def list_images(folder: Path, passed: PassedOver | None = None) -> list[Path]:
    """The image files of one class folder and of the folders in it, sorted by name.

    A file is taken for an image by its suffix, and a pipe or broken link of such a name is listed, too: reading says
    what is wrong with it. Arguments and errors as for `list_class_folders`.
    """
    passed = PassedOver() if passed is None else passed
    return [folder.joinpath(*parts) for parts in sorted(_walk(str(folder), passed, (), set()))]


def _walk(
    folder: str, passed: PassedOver, parts: tuple[str, ...], seen: set[tuple[int, int]]
) -> Iterator[tuple[str, ...]]:
    """The image files in and below a folder, as names of the way to each; `seen` ends links that go round."""
    with file_errors(Path(folder), "list"):
        status = os.stat(folder)
    if (status.st_dev, status.st_ino) in seen:
        passed.folders[f"{'/'.join(parts)} (a link to one that is read)"] = None
        return
    seen.add((status.st_dev, status.st_ino))
    for name, path in _entries(Path(folder)):
        if os.path.isdir(path):
            if _is_system(name):
                passed.folders[name] = None
            else:
                yield from _walk(path, passed, (*parts, name), seen)
        elif (reason := _why_not(name)) is not None:
            passed.files[reason] += 1
        else:
            yield (*parts, name)


def _entries(folder: Path) -> list[tuple[str, str]]:
    """Names and paths in a folder, sorted by name. Raises UserError."""
    with file_errors(folder, "list"), os.scandir(folder) as entries:
        return sorted((entry.name, entry.path) for entry in entries)


def _is_system(name: str) -> bool:
    return name.startswith(".") or name.lower() in _NO_CLASSES


def _why_not(name: str) -> str | None:
    """Why a file is no image, by its name; None if it is one."""
    if name.startswith(".") or name.lower() in _LEFT_BEHIND:
        return "hidden"
    return None if name.lower().endswith(SUFFIXES) else "of no image's suffix"
