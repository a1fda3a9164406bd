"""Jobs as processes of this machine, out of reach of the terminal's Ctrl-C: that comes here, and is passed on."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas_osr.errors import UserError
from nas_osr.files.storage import file_errors
from nas_osr.runs.provenance import machine
from nas_osr.runs.stopping import handle_signals
from nas_osr.sweeps.executor import Job, Resources, Result

NO_MORE = object()
MISTAKE = 2  # exit code of a user's mistake, which no retry mends
INTERRUPTED = 128 + signal.SIGINT  # what a shell says of a process that Ctrl-C has ended
POLL_SECONDS = 0.1
ERROR_LENGTH = 500
# With this process's Python path, so that nothing in the working folder is imported by accident; Ctrl-C ends it quietly
# while it imports, too.
START = (
    f"import signal, sys; signal.signal(signal.SIGINT, lambda *_: sys.exit({INTERRUPTED})); "
    "sys.path[:] = sys.argv[2:]; from nas_osr.sweeps.local import work; work()"
)


def share_cores(processes: int) -> Resources:
    """A share of this machine's cores for each of so many jobs at a time, unless the user has set OMP_NUM_THREADS; one
    job alone decides for itself."""
    cores = machine()["cores"]
    if processes == 1 or "OMP_NUM_THREADS" in os.environ or not isinstance(cores, int):
        return Resources()
    return Resources(max(1, cores // processes))


def visible_gpus() -> tuple[str, ...]:
    """This machine's GPUs as CUDA_VISIBLE_DEVICES names them, those alone that it lets through."""
    import torch

    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(number) for number in range(count)] if named is None else named.split(",")
    return tuple(names[:count])


@dataclass
class LocalExecutor:
    """See `nas_osr.sweeps.executor.Executor`."""

    processes: int = 1
    "how many at a time."
    hold: Sequence[int] = ()
    "descriptors that the processes keep open, such as a lock that is to outlive this one."
    report: Callable[[str], None] = lambda line: None
    "is told in a line what is ended or run again."

    def map(
        self, function: Callable[[Any], Any], jobs: Iterable[Job | None], resources: Resources, retries: int = 0
    ) -> Generator[Result, None, None]:
        """The first interruption asks the processes to save and end, a second one kills them."""
        waiting, more = iter(jobs), True
        running: list[JobProcess] = []
        with stopping_signals():
            try:
                while more or running:
                    while more and len(running) < self.processes:
                        job = next(waiting, NO_MORE)
                        more = job is not NO_MORE
                        if not isinstance(job, Job):
                            break
                        device = free_device(resources.devices, running)
                        running.append(JobProcess(job, function, resources, self.hold, retries, device))
                    if more and not running:
                        raise ValueError("no job is ready, and none is running whose result could be waited for")
                    for call in wait_for_some(running):
                        running.remove(call)
                        if call.retries and call.process.returncode not in (0, MISTAKE):
                            self.report(f"{call.job.name}: run again after {call.result().error}")
                            left = call.retries - 1
                            running.append(JobProcess(call.job, function, resources, self.hold, left, call.device))
                        else:
                            yield call.result()
            except KeyboardInterrupt:
                self.stop(running)
                while running:
                    yield running.pop(0).result(interrupted=True)
                raise
            finally:
                self.stop(running)

    def stop(self, running: Sequence[JobProcess]) -> None:
        """Ask processes to save and end, as Ctrl-C does, and wait for it; an interruption meanwhile kills them."""
        if not running:
            return
        self.report(f"ending {', '.join(call.job.name for call in running)}")
        try:
            for call in running:
                call.process.send_signal(signal.SIGINT)
            for call in running:
                call.process.wait()
        except KeyboardInterrupt:
            for call in running:
                call.process.kill()
                call.process.wait()


class JobProcess:
    """A job in its process. A file without a name takes the task there, and the outcome back."""

    def __init__(
        self,
        job: Job,
        function: Callable[[Any], Any],
        resources: Resources,
        hold: Sequence[int],
        retries: int,
        device: str | None = None,
    ) -> None:
        if function.__module__ == "__main__" or "." in function.__qualname__:
            raise UserError(f"{function.__qualname__} is found by no other process: put it at the top of a module")
        self.job, self.retries, self.device = job, retries, device
        self.exchange = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the call)
        task = {"function": f"{function.__module__}:{function.__qualname__}", "argument": job.argument}
        self.exchange.write(json.dumps(task).encode())
        self.exchange.seek(0)
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        if resources.cores:
            environment["OMP_NUM_THREADS"] = str(resources.cores)
        if device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = device
        with contextlib.ExitStack() as stack:
            log = None
            if job.log is not None:
                stack.enter_context(file_errors(job.log, "write"))
                log = stack.enter_context(open(job.log, "ab"))
            self.begin = 0 if log is None else log.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-c", START, job.name, *sys.path],
                stdin=self.exchange,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
                pass_fds=hold,
            )

    def result(self, interrupted: bool = False) -> Result:
        """How the process ended, after it has."""
        self.exchange.seek(0)
        outcome = json.load(self.exchange) if self.process.returncode == 0 else {}
        if "value" in outcome:
            return Result(self.job, outcome["value"])
        error = outcome.get("error") or self.last_line() or f"exit code {self.process.returncode}"
        return Result(self.job, error=error, interrupted=interrupted)

    def last_line(self) -> str:
        """The last line that the process has put into its log and that says something, or ""."""
        return "" if self.job.log is None else last_line(self.job.log, self.begin)


def last_line(log: Path, begin: int) -> str:
    """The last line that says something of what a log has behind so many bytes, or "". UserError."""
    with file_errors(log, "read"), open(log, "rb") as file:
        file.seek(max(begin, os.fstat(file.fileno()).st_size - 65536))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")[:ERROR_LENGTH]


def work() -> None:
    """What runs in the process: call the function that stdin names, and put what comes of it into the same file."""
    with open(os.dup(0), "r+b") as exchange:
        task = json.load(exchange)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        module, _, name = task["function"].partition(":")
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            outcome = {"value": getattr(importlib.import_module(module), name)(task["argument"])}
        except UserError as error:
            outcome = {"error": str(error)}
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        content = json.dumps(outcome).encode()
        exchange.seek(0)
        exchange.truncate()
        exchange.write(content)


def free_device(devices: Sequence[str], running: Sequence[JobProcess]) -> str | None:
    """The one that has the fewest jobs, the first of such; None of none."""
    load = Counter(call.device for call in running)
    return min(devices, key=load.__getitem__, default=None)


def wait_for_some(running: Sequence[JobProcess]) -> list[JobProcess]:
    """The calls that have ended, as soon as there are any; none of none."""
    while running:
        ended = [call for call in running if call.process.poll() is not None]
        if ended:
            return ended
        time.sleep(POLL_SECONDS)
    return []


def stopping_signals() -> contextlib.AbstractContextManager[None]:
    """SIGTERM, and SIGHUP of a closed terminal, interrupt as Ctrl-C does; ones that are ignored stay ignored.

    Where Ctrl-C is ignored, as in the background of a script, it goes on being so here, but not in the jobs, which are
    asked to end by that signal.
    """
    ending = ((signal.SIG_DFL,), signal.default_int_handler)
    deaf = ((signal.SIG_IGN,), lambda number, frame: None)
    ends = [number for number in signal.Signals if number.name in ("SIGTERM", "SIGHUP")]  # Windows has no SIGHUP
    return handle_signals({**dict.fromkeys(ends, ending), signal.SIGINT: deaf})
