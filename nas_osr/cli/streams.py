"""What a command prints, on streams that are closed, full, or cannot show every character."""

from __future__ import annotations

import codecs
import io
import os
import sys

PLAIN = {"±": "+-", "×": "x", "–": "-", "—": "-", "…": "...", "→": "->", "≥": ">=", "≤": "<="}
HANDLER = "nas_osr.plain"


def prepare_streams() -> None:
    """Let whatever is printed be printed somehow: nothing that is said may end what has been computed.

    A closed stream becomes one that keeps nothing: the next file that is opened would have its number, and what is
    printed would go into it. What a stream cannot encode is written in plain characters.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if number == 0 else "w", encoding="utf-8"))  # noqa: SIM115
    codecs.register_error(HANDLER, write_plainly)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=HANDLER)


def write_plainly(error: UnicodeError) -> tuple[str, int]:
    """A handler of encoding errors: what stands for characters that a stream does not have."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(letter, "?") for letter in error.object[error.start : error.end]), error.end


def settle_streams() -> None:
    """Write what is left, or let go of it, so that the interpreter does not complain of it as it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
