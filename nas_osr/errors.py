"""The one exception that stands for a user's mistake."""

from __future__ import annotations

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
