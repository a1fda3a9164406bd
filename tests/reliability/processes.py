"""Real processes for the tests: forked from a server that has imported what takes long, so that each starts at once."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from harness import SLOW_MODULES, write_slowly


def enter(arguments: list[str], log: str, slow: float, largest_file: int, crash: Mapping[str, Any] | None) -> None:
    """What runs in the process: `nas-osr ARGUMENTS`, its output appended to a file."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it
    if slow:
        write_slowly(slow)
    if largest_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    if crash:
        from ckpt_chaos.inject import arm

        arm(**crash)
    from nas_osr.cli.main import main

    sys.exit(main(arguments))


def launch(
    arguments: list[str],
    log: Path,
    *,
    slow: float = 0.0,
    largest_file: int = 0,
    crash: Mapping[str, Any] | None = None,
) -> ForkServerProcess:
    """Start `nas-osr ARGUMENTS`.

    Args:
        slow: seconds of pause around each flush and rename of a file.
        largest_file: bytes that a file may have; 0 is any number.
        crash: what `ckpt_chaos.inject.arm` is called with.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(SLOW_MODULES))
    process = context.Process(target=enter, args=(arguments, str(log), slow, largest_file, crash))
    process.start()
    return process


def finish(process: ForkServerProcess) -> int | None:
    """Wait for a process; its exit code, negative for the signal that ended it."""
    process.join(300)
    assert process.exitcode is not None, "still running"
    return process.exitcode


def wait_until(condition: Callable[[], bool], process: ForkServerProcess) -> None:
    """Wait until something is so, while a process runs."""
    until = time.monotonic() + 300
    while not condition():
        assert process.is_alive() and time.monotonic() < until, "it never came to that"
        time.sleep(0.002)
