"""SIGTERM and Ctrl-C: a training saves where it stands and ends; everything else ends at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Collection, Iterator, Mapping
from types import FrameType
from typing import Any

WAITING = b"nas-osr: saving after this step, then ending; a second signal ends at once\n"


class Terminated(KeyboardInterrupt):
    """SIGTERM, handled as Ctrl-C is but for the exit code."""


def raise_terminated(number: int, frame: FrameType | None) -> None:
    """The handler of SIGTERM outside of a training."""
    raise Terminated


@contextlib.contextmanager
def handle_signals(wanted: Mapping[int, tuple[Collection[Any], Any]]) -> Iterator[None]:
    """Inside, signals have other handlers.

    Args:
        wanted: for each number which handlers may be replaced, and by what; any other, such as one that the caller has
            set, stays. All stay in a thread that is not the main one.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number, (replaceable, handler) in wanted.items():
            if signal.getsignal(number) in replaceable:
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def terminable() -> contextlib.AbstractContextManager[None]:
    """Inside, SIGTERM raises `Terminated`. One that is ignored or handled already stays so, as does another thread."""
    return handle_signals({signal.SIGTERM: ((signal.SIG_DFL,), raise_terminated)})


class StopRequests:
    """Inside, a first SIGTERM or Ctrl-C is kept until whoever said `defer` has saved; a second one ends at once.

    Use it as a context manager. Signals that are ignored, or that the caller handles, are left alone.
    """

    def __init__(self) -> None:
        self._request: KeyboardInterrupt | None = None
        self._deferring = False
        handlers = {signal.SIGINT: (signal.default_int_handler,), signal.SIGTERM: (signal.SIG_DFL, raise_terminated)}
        self._handling = handle_signals({number: (old, self._receive) for number, old in handlers.items()})

    def __enter__(self) -> StopRequests:
        self._handling.__enter__()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._deferring = False
        self._handling.__exit__(None, None, None)
        if error is None:
            self.raise_requested()

    @property
    def requested(self) -> bool:
        """Whether a signal is waiting."""
        return self._request is not None

    def defer(self) -> None:
        """From now on a signal waits for `raise_requested`; until then it is raised where it arrives."""
        self._deferring = True

    def raise_requested(self) -> None:
        """Raise the signal that is waiting, KeyboardInterrupt or `Terminated`, if there is one."""
        if self._request is not None:
            raise self._request

    def _receive(self, number: int, frame: FrameType | None) -> None:
        request = Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
        if not self._deferring or self._request is not None:
            raise request
        self._request = request
        with contextlib.suppress(OSError):  # a terminal that is gone must not cost the checkpoint
            os.write(2, WAITING)  # print is not safe inside a handler
