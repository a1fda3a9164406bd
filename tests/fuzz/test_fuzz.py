"""Broken files of every kind that is read: each gives a result or a UserError of one line, soon and in little memory.

`make fuzz` runs the many cases of the profile "fuzz", the suite a few of each kind; `corpus/TARGET/` holds cases
that once did harm.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import sys
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nas_osr.errors import UserError

sys.path.insert(0, str(Path(__file__).resolve().parent))

from targets import CORPUS, TARGETS, Target

NIGHTLY = settings.get_current_profile_name() == "fuzz"
CASES = 700 if NIGHTLY else 32  # of each target
SECONDS = 15  # of the processor, for one case
PATIENCE = 300  # seconds of the clock, on a busy machine
MEGABYTES = 700  # more than the process had before
LONGEST = 2000  # characters of a message


@contextlib.contextmanager
def limits() -> Iterator[None]:
    """Fail when the block takes too long, or makes the process much larger than it has ever been."""

    def stop(number: int, frame: Any) -> None:
        raise AssertionError(f"not done after {SECONDS} s of the processor, or {PATIENCE} s")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    timers = ((signal.SIGVTALRM, signal.ITIMER_VIRTUAL, SECONDS), (signal.SIGALRM, signal.ITIMER_REAL, PATIENCE))
    previous = [signal.signal(number, stop) for number, _, _ in timers]
    for _, timer, seconds in timers:
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for (number, timer, _), handler in zip(timers, previous, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10  # KiB on Linux
    assert grown < MEGABYTES, f"took {grown} MiB"


def check(target: Target, content: bytes, folder: Path) -> None:
    """Read a content: anything but a result or a clear UserError is an error of ours."""
    folder.mkdir()
    target.beside(folder)
    (folder / target.name).write_bytes(content)
    with limits(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            target.read(folder)
        except UserError as error:
            assert "\n" not in str(error) and 0 < len(str(error)) < LONGEST


@cache
def seeds(name: str) -> list[bytes]:
    return TARGETS[name].seeds()


@pytest.mark.parametrize("name", TARGETS)
def test_sound_files_are_read(name: str, tmp_path: Path) -> None:
    """What is broken below was not broken before: the cases reach the readers."""
    target = TARGETS[name]
    for number, content in enumerate(seeds(name)):
        folder = tmp_path / str(number)
        folder.mkdir()
        target.beside(folder)
        (folder / target.name).write_bytes(content)
        if (name, number) != ("image", 6):  # a GIF is refused
            target.read(folder)


@pytest.mark.parametrize("name", TARGETS)
@settings(
    max_examples=CASES, derandomize=not NIGHTLY, database=None, deadline=None, print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(random=st.randoms(use_true_random=False))
def test_broken_files(name: str, tmp_path_factory: pytest.TempPathFactory, random: Random) -> None:
    target = TARGETS[name]
    content = target.change(random.choice(seeds(name)), random)
    check(target, content, tmp_path_factory.mktemp(name) / "files")


@pytest.mark.parametrize(
    "case", sorted(path for path in CORPUS.glob("*/*")), ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_kept_cases(case: Path, tmp_path: Path) -> None:
    check(TARGETS[case.parent.name], case.read_bytes(), tmp_path / "files")
