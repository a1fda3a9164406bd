"""Labels as users write them: numbers or names, and unknown by any of the ways to say it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nas_osr.errors import UserError, show
from nas_osr.metrics.open_set import Array

UNKNOWN = -1  # besides N, in test labels
UNKNOWN_NAMES = ("unknown", str(UNKNOWN))


def number_names(arrays: Mapping[str, Any], parts: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The arrays with labels that are numbers, and the names that these stand for; no names where there were none.

    Names are numbered in their sorted order. Test labels that no image of the first part has are unknown; they serve
    as `test_classes` where there are none and each is the name of a class. Whole numbers as text count as numbers.

    Args:
        arrays: by name.
        parts: which ones are used; the first has every known class.

    Raises:
        UserError: some labels are text and others not, or a known image is of no known class.
    """
    given = {part: f"{part}_labels" for part in parts if f"{part}_labels" in arrays}
    found = {part: as_array(arrays[name], name) for part, name in given.items()}
    texts = {part: values for part, values in found.items() if values.dtype.kind == "U" and values.ndim == 1}
    if not texts:
        return dict(arrays), []
    if len(texts) < len(found) or parts[0] not in texts:
        raise UserError(f"array {next(iter(texts))}_labels is text, the labels of other parts are not: use one kind")
    every = {text for values in texts.values() for text in values.tolist()} - {*UNKNOWN_NAMES}
    numbers = all(re.fullmatch(r"\d{1,9}", text, re.ASCII) for text in every)
    names = [] if numbers else sorted(set(texts[parts[0]].tolist()))
    codes = {name: code for code, name in enumerate(names)}
    changed = dict(arrays)
    for part, values in texts.items():
        for name in values.tolist() if part != "test" else []:
            if name in UNKNOWN_NAMES or not (numbers or name in codes):
                raise UserError(f"array {part}_labels: {show(name)} is no known class; only test images may be unknown")
        changed[f"{part}_labels"] = np.array(
            [
                UNKNOWN if name in UNKNOWN_NAMES else int(name) if numbers else codes.get(name, UNKNOWN)
                for name in values.tolist()
            ]
        )
    if names and "test" in texts and "test_classes" not in arrays and not set(texts["test"]) & {*UNKNOWN_NAMES}:
        changed["test_classes"] = texts["test"]
    return changed, names


def as_array(values: Any, name: str) -> Array:
    """Anything that numpy makes an array of; UserError where it makes none."""
    try:
        made = np.asarray(values)
        return np.asarray(made.tolist()) if made.dtype.kind == "O" else made  # pandas keeps text as objects
    except (TypeError, ValueError) as error:
        raise UserError(f"array {name}: {error}") from None


def mark_unknown(labels: Array, num_known: int) -> Array:
    """Test labels with N where they say -1. UserError when they say both."""
    if (labels == UNKNOWN).any() and (labels == num_known).any():
        raise UserError(
            f"array test_labels: holds both {UNKNOWN}, which is unknown, and {num_known}, which is unknown as well: "
            f"known classes are 0 to {num_known - 1}"
        )
    return np.where(labels == UNKNOWN, num_known, labels)


def check_whole(values: Array, name: str) -> Array:
    """Labels as whole numbers. UserError where they are flags, or have fractions."""
    if values.dtype.kind == "b":
        raise UserError(f"array {name}: holds flags; labels are classes, 0 to N-1 (and N or {UNKNOWN}, unknown)")
    if values.dtype.kind != "f":
        return values
    broken = ~(np.abs(values) < 2**53) | (values % 1 != 0)
    if broken.any():
        row = int(broken.argmax())
        raise UserError(f"array {name}: expected whole numbers, row {row} is {values[row]:.9g}")
    return values.astype(np.int64)


def suspect_flags(labels: Array, num_known: int) -> bool:
    """Whether test labels may be flags of known and unknown images instead of classes: 0 and 1 alone, of many."""
    return num_known > 2 and len(labels) > 2 and np.array_equal(np.unique(labels), [0, 1])
