"""Which class of a source a folder shows: by its official name, its label number or a documented alias; no guessing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from nas_osr.errors import UserError

_SHOWN = 12  # classes, in a message
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGIT_WORDS = {str(digit): (word,) for digit, word in enumerate(_WORDS)}  # aliases of sources of digits


def fold_name(name: str) -> str:
    """A name without case, spaces and punctuation: "Ankle-boot" and "ankle_boot" are one."""
    return re.sub(r"[\W_]+", "", name.casefold())


def match_class_folders(
    folder: Path, found: Sequence[str], class_names: Sequence[str], aliases: Mapping[str, Sequence[str]]
) -> dict[int, Path]:
    """Class id -> folder.

    Args:
        folder: what holds the class folders.
        found: their names. All are names or aliases of classes, or all are label numbers from 0.
        class_names: official names; the class id is the position.
        aliases: official name -> other ones.

    Raises:
        UserError: a folder is of no class, names and numbers are mixed, or two folders show one class.
    """
    numbers = [name for name in found if name.isascii() and name.isdigit()]
    printed = set(found) <= set(class_names)
    if numbers and numbers == list(found) and not printed:
        ids = {name: int(name) for name in found if int(name) < len(class_names)}
    else:
        ids = _by_name(found if printed else [name for name in found if name not in numbers], class_names, aliases)
    strange = [name for name in found if name not in ids]
    if strange:
        more = f" and {len(strange) - _SHOWN} more" if len(strange) > _SHOWN else ""
        raise UserError(
            f"{folder}: cannot tell which class is shown by {', '.join(strange[:_SHOWN])}{more}: expected folders "
            f"named {_describe(class_names, aliases)}, or all of them by label numbers 0 to {len(class_names) - 1}"
        )
    taken: dict[int, str] = {}
    for name in found:
        if ids[name] in taken:
            both = f"{taken[ids[name]]} and {name}"
            raise UserError(f"{folder}: folders {both} are both class {class_names[ids[name]]}: put them into one")
        taken[ids[name]] = name
    return {class_id: folder / name for class_id, name in taken.items()}


def _by_name(found: Sequence[str], class_names: Sequence[str], aliases: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Folder -> class id, of those that have one; a name as it is printed goes before one that is folded."""
    exact = {name: class_id for class_id, name in enumerate(class_names)}
    folded: dict[str, set[int]] = {}
    for class_id, name in enumerate(class_names):
        for other in (name, *aliases.get(name, ())):
            folded.setdefault(fold_name(other), set()).add(class_id)
    ids = {name: {exact[name]} if name in exact else folded.get(fold_name(name), set()) for name in found}
    return {name: next(iter(classes)) for name, classes in ids.items() if len(classes) == 1}


def _describe(class_names: Sequence[str], aliases: Mapping[str, Sequence[str]]) -> str:
    """E.g. "airplane (or plane), bird"; of many classes the first and the last."""
    many = len(class_names) > _SHOWN
    shown = [f"{name} (or {aliases[name][0]})" if aliases.get(name) and not many else name for name in class_names]
    return f"{shown[0]} ... {shown[-1]}" if many else ", ".join(shown)
