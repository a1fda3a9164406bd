"""Whether a run waits for a processor that other programs use."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

TASKS = Path("/proc/self/task")
LOOK_EVERY = 20.0  # seconds between two looks
TOO_MUCH = 0.5  # of the time in which a thread could have computed


class Turns(NamedTuple):
    """Seconds in which the threads of this process have computed, and in which they could have but had to wait."""

    ran: float
    waited: float


def turns(tasks: Path = TASKS) -> Turns | None:
    """Of all threads that there are now, as Linux counts them; None where the system does not say."""
    ran = waited = 0
    found = False
    for file in tasks.glob("*/schedstat"):
        try:
            now_ran, now_waited, _ = map(int, file.read_text().split())
        except (OSError, ValueError):  # the thread has ended, or the kernel keeps no such count
            continue
        ran, waited, found = ran + now_ran, waited + now_waited, True
    return Turns(ran / 1e9, waited / 1e9) if found else None


class Contention:
    """Looks now and then how long the threads of this process have waited, and says so once where it is too long.

    Threads that wait for each other get far slower than their share of the processor beside other programs: two
    processes of two threads on two cores were seen to take 70 times as long for a step.

    Args:
        threads: how many compute.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._looked, self._seen = time.monotonic(), turns()

    def warning(self) -> str | None:
        """One line when it is time to look again and the wait since the last look was too long; after it never more."""
        now = time.monotonic()
        if self._seen is None or now - self._looked < LOOK_EVERY:
            return None
        before, self._seen = self._seen, turns()
        self._looked = now
        if self._seen is None:
            return None
        ran, waited = max(self._seen.ran - before.ran, 0.0), max(self._seen.waited - before.waited, 0.0)
        if ran + waited < LOOK_EVERY / 4 or waited < TOO_MUCH * (ran + waited):  # less: the work is done elsewhere
            return None
        self._seen = None
        advice = "; beside them --threads 1 is faster" if self.threads > 1 else ""
        return (
            f"other programs use the processor: the run waits for it {waited / (ran + waited):.0%} of the time{advice}"
        )
