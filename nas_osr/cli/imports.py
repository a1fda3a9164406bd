"""Importing the slow packages, quickly."""

from __future__ import annotations

import atexit
import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """Inside: no garbage is collected, which imports make next to none of.

    Python would look through all of a million new objects again and again, for a seventh of the time. What new modules
    have brought is left out of later collections, too: it stays as long as the process.
    """
    enabled, modules = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > modules:
            gc.freeze()
            atexit.register(
                gc.unfreeze
            )  # some packages complain of leaks when their objects are not collected at the end
        if enabled:
            gc.enable()
