"""Paths of a user: the one place that they all pass, wherever they come from."""

from __future__ import annotations

import os
from glob import glob
from pathlib import Path

from nas_osr.errors import UserError, show


def user_path(value: str | os.PathLike[str]) -> Path:
    """The path that a user gave, with `~` and `~name` expanded.

    Raises:
        UserError: it is empty or holds a null character, or there is no such user or home.
    """
    text = os.fspath(value)
    if not text or "\0" in text:
        raise UserError(f"{show(text)} is no path: name a file or a folder")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{text}: {text.partition('/')[0]} has no home folder here: write the path out") from None


def absolute_path(value: str | os.PathLike[str]) -> Path:
    """`user_path`, from the root: what is recorded so is found from another working folder, too. Raises UserError."""
    return Path(os.path.abspath(user_path(value)))


def is_pattern(path: Path) -> bool:
    """Whether a path is none that exists, and stands for those that it fits, such as runs/plain-*."""
    return any(mark in str(path) for mark in "*?[") and not path.exists()


def fitting(pattern: Path) -> list[Path]:
    """The paths that a pattern fits, by name; other paths stand for themselves."""
    return [Path(name) for name in sorted(glob(str(pattern)))] if is_pattern(pattern) else [pattern]
