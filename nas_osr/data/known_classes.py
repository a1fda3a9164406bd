"""Known and unknown classes as a user names them, nested where several share a label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nas_osr.data.sources.base import Source
from nas_osr.errors import UserError

MANY = 20  # class names that a message lists


def parse_known(known: Sequence[Any], source: Source, what: str) -> tuple[tuple[int, ...], ...]:
    """The class ids, in one source, of names that are nested where merged: a group for each label.

    Args:
        known: names; a whole number counts as its text. Where no class of a source with official label numbers is
            called by a number, that text may be such a number.
        source: whose classes they are.
        what: is chosen from, for messages.

    Raises:
        UserError: there is no such class, or one is named twice; fewer than two labels; no list.
    """
    if isinstance(known, str) or not isinstance(known, Sequence):
        raise UserError(f"known classes of {what} must be a list, e.g. [bird, cat, [dog, wolf]], got {known!r}")
    groups = tuple(
        tuple(find_class(one, source) for one in (entry if isinstance(entry, (list, tuple)) else [entry]))
        for entry in known
    )
    _check_once([entry for group in groups for entry in group], source, f"known classes of {what}")
    if len(groups) < 2 or not all(groups):
        raise UserError(f"known classes of {what}: at least two labels are needed, and none may be empty; got {known}")
    return groups


def parse_unknown(unknown: Sequence[Any], source: Source, what: str) -> list[int]:
    """The class ids of names, which may be none; see `parse_known`."""
    if isinstance(unknown, str) or not isinstance(unknown, Sequence):
        raise UserError(f"unknown classes of {what} must be a list, e.g. [bird, cat], got {unknown!r}")
    ids = [find_class(entry, source) for entry in unknown]
    _check_once(ids, source, f"unknown classes of {what}")
    return ids


def find_class(value: Any, source: Source) -> int:
    """The class id of a name in one source. Raises UserError: see `parse_known`."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise UserError(f"{source.where}: {value!r} is no name of a class: put it in quotes if it is meant as one")
    names, text = source.class_names, str(value)
    if text in names:
        return names.index(text)
    numbers = ""
    if source.numbered and not any(name.isdecimal() for name in names):
        if text.isascii() and text.isdecimal() and int(text) < len(names):
            return int(text)
        numbers = f", or their numbers 0 to {len(names) - 1}"
    shown = ", ".join(names) if len(names) <= MANY else f"{names[0]} ... {names[-1]}"
    raise UserError(f"{source.where} has no class {text!r}: its classes are {shown}{numbers}")


def _check_once(ids: Sequence[int], source: Source, what: str) -> None:
    """UserError when a class is there twice."""
    for index, class_id in enumerate(ids):
        if class_id in ids[:index]:
            raise UserError(f"{what}: {source.class_names[class_id]} is given twice")
