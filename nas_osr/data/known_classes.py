"""Known classes as a user names them: ids or names, nested where several share a label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nas_osr.errors import UserError


def parse_known(known: Sequence[Any], class_names: Sequence[str], what: str) -> tuple[tuple[int, ...], ...]:
    """Class ids or names, nested where merged, as groups of ids in label order; raises UserError on any mistake."""
    if isinstance(known, str) or not isinstance(known, Sequence):
        raise UserError(f"known classes of {what} must be a list, e.g. [0, 3, cat, [4, 5]], got {known!r}")
    positions = {class_name: index for index, class_name in enumerate(class_names)}

    def class_id(value: Any) -> int:
        if isinstance(value, str) and value in positions:
            return positions[value]
        if type(value) is int and 0 <= value < len(class_names):
            return value
        shown = ", ".join(class_names) if len(class_names) <= 20 else f"{class_names[0]} ... {class_names[-1]}"
        raise UserError(f"{what} has no class {value!r}: ids are 0 to {len(class_names) - 1}, names are {shown}")

    groups = tuple(
        tuple(map(class_id, entry)) if isinstance(entry, (list, tuple)) else (class_id(entry),) for entry in known
    )
    ids = [entry for group in groups for entry in group]
    if len(set(ids)) != len(ids):
        twice = next(entry for entry in ids if ids.count(entry) > 1)
        raise UserError(f"known classes of {what}: class {twice} ({class_names[twice]}) is given twice")
    if len(groups) < 2 or not all(groups):
        raise UserError(f"known classes of {what}: at least two labels are needed, and none may be empty; got {known}")
    return groups
