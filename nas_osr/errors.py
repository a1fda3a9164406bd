"""The one exception that stands for a user's mistake, and what its messages are made of."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Any

LONGEST = 1500  # characters of a message; the excess is taken out of its middle


class UserError(Exception):
    """Bad input: the message is one line that says what is wrong, where, and how to mend it.

    Raised at the boundaries (arguments, files, folders); `nas_osr.cli` alone turns it into one line on stderr and exit
    code 2. Whatever a message quotes, it stays one line of at most `LONGEST` characters: where comes first and the
    remedy last, so that the middle gives way.
    """

    def __init__(self, message: str) -> None:
        line = " ".join(message.splitlines())
        if len(line) > LONGEST:
            half = LONGEST // 2 - 3
            line = f"{line[:half]} ... {line[-half:]}"
        super().__init__(line)


def show(value: Any) -> str:
    """A short one-line rendering for messages."""
    if isinstance(value, list | tuple | dict):
        return {list: "a list", tuple: "a tuple", dict: "an object"}.get(type(value), type(value).__name__)
    if isinstance(value, str):
        return ascii(value if len(value) <= 40 else value[:37] + "...")
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 1 << 64:
        return "a huge number"
    return repr(value)[:60]


def suggest(name: str, names: Collection[str], dashes: str = "", instead: str = "", before: str = "; ") -> str:
    """ "; did you mean NAME?" when there is a similar name; else "; INSTEAD NAME, NAME, ..." if that is given."""
    close = difflib.get_close_matches(name, names, n=1)
    if not close:
        folded = {known.lower(): known for known in names}
        close = [folded[found] for found in difflib.get_close_matches(name.lower(), folded, n=1)]
    if close:
        return f"{before}did you mean {dashes}{close[0]}?"
    return f"{before}{instead} {', '.join(names)}" if instead else ""
