"""Jobs as tasks of a Ray cluster: the one that RAY_ADDRESS names, or one that is started on this machine."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nas_osr.errors import UserError
from nas_osr.files.storage import file_errors
from nas_osr.sweeps.executor import Job, Resources, Result
from nas_osr.sweeps.local import ERROR_LENGTH, MISTAKE, NO_MORE, last_line, stopping_signals

CONNECT_SECONDS = 10
SAVE_SECONDS = 120  # for what has been asked to save and end


@dataclass
class RayExecutor:
    """See `nas_osr.sweeps.executor.Executor`. What a job without a log prints is left to Ray. Paths, this process's
    working folder among them, are the same on all machines."""

    processes: int = 1
    "how many at a time."
    report: Callable[[str], None] = lambda line: None
    "is told in a line what is ended or run again."

    def map(
        self, function: Callable[[Any], Any], jobs: Iterable[Job | None], resources: Resources, retries: int = 0
    ) -> Generator[Result, None, None]:
        """A worker that is killed, or a machine that goes, costs a retry. The first interruption asks what runs to save
        and end, for two minutes at most; a second one kills it."""
        cores = max(1, resources.cores)
        ray = open_ray(self.processes * cores)
        gpus = share_gpus(ray, self.processes) if resources.gpus is None else resources.gpus
        check_resources(ray, {"CPU": cores, "GPU": gpus}, self.report)
        # a process for each, as elsewhere
        task = ray.remote(max_calls=1)(run_task).options(num_cpus=cores, num_gpus=gpus, max_retries=0)
        name = f"{function.__module__}:{function.__qualname__}"
        waiting, more = iter(jobs), True
        running: dict[Any, tuple[Job, int]] = {}

        def start(job: Job, left: int) -> None:
            log = None if job.log is None else str(job.log.absolute())
            running[task.remote(name, job.argument, resources.cores, sys.path, os.getcwd(), log)] = job, left

        with stopping_signals():
            try:
                while more or running:
                    while more and len(running) < self.processes:
                        job = next(waiting, NO_MORE)
                        more = job is not NO_MORE
                        if not isinstance(job, Job):
                            break
                        start(job, retries)
                    if more and not running:
                        raise ValueError("no job is ready, and none is running whose result could be waited for")
                    ended = ray.wait([*running], num_returns=1)[0] if running else []
                    for reference in ended:
                        job, left = running.pop(reference)
                        result, died = result_of_task(ray, reference, job)
                        if died and left:
                            self.report(f"{job.name}: run again after {result.error}")
                            start(job, left - 1)
                        else:
                            yield result
            except KeyboardInterrupt:
                self.stop(ray, {reference: job for reference, (job, _) in running.items()})
                while running:
                    reference, (job, _) = running.popitem()
                    result, _ = result_of_task(ray, reference, job)
                    yield replace(result, interrupted=bool(result.error))
                raise
            finally:
                for reference in running:
                    ray.cancel(reference, force=True)

    def stop(self, ray: Any, running: dict[Any, Job]) -> None:
        """Ask tasks to save and end, and wait for it; those that do not, and all at an interruption, are killed."""
        if not running:
            return
        self.report(f"ending {', '.join(job.name for job in running.values())}")
        left = [*running]
        try:
            for reference in left:
                ray.cancel(reference)
            left = ray.wait(left, num_returns=len(left), timeout=SAVE_SECONDS)[1]
        except KeyboardInterrupt:
            pass
        for reference in left:
            ray.cancel(reference, force=True)


def open_ray(cores: int) -> Any:
    """The module ray, connected: to the cluster of RAY_ADDRESS, or to one of so many cores here. UserError."""
    try:
        ray = importlib.import_module("ray")
    except ImportError:
        raise UserError("backend ray needs the package ray: pip install 'nas-osr[ray]'") from None
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS")
        here: dict[str, Any] = {}
        if address is None:  # workers import what this process imports
            variables = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            here = {
                "num_cpus": cores,
                "include_dashboard": False,
                "runtime_env": {"env_vars": variables},
                "_system_config": {"worker_niceness": 0},  # as jobs of other executors are; Ray's own is 15
            }
        else:
            check_address(address)
        handler = signal.getsignal(signal.SIGTERM)  # Ray sets its own, which would end a search without saving it
        try:
            ray.init(address=address, log_to_driver=False, logging_level="error", **here)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"RAY_ADDRESS {address}: no Ray cluster answers there: {first_line(error)}") from error
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)
    return ray


def check_address(address: str) -> None:
    """UserError when nothing listens at HOST:PORT, for which Ray would wait for minutes; others are left to Ray."""
    host, _, port = address.rpartition(":")
    if "/" in address or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise UserError(f"RAY_ADDRESS {address}: no Ray cluster answers there: {first_line(error)}") from error


def share_gpus(ray: Any, processes: int) -> float:
    """The part of a GPU for each of so many jobs, so that all run at a time; 0 where the cluster has none."""
    count = int(ray.cluster_resources().get("GPU", 0))
    return 1 / math.ceil(processes / count) if count else 0.0


def check_resources(ray: Any, wanted: dict[str, float], report: Callable[[str], None]) -> None:
    """Say when no machine has what a job asks for: Ray waits until one comes, which none does here: UserError."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for name, amount in wanted.items():
        most = max((resources.get(name, 0) for resources in machines), default=0)
        if amount > most:
            option = f"{name.lower()}s_per_job"
            if "RAY_ADDRESS" not in os.environ:
                raise UserError(f"{option}: a job asks for {amount:g}, and Ray here has {most:g}")
            report(f"{option}: a job asks for {amount:g}, no machine of the cluster has more than {most:g}: waiting")


def result_of_task(ray: Any, reference: Any, job: Job) -> tuple[Result, bool]:
    """How a task ended, and whether its process died, so that it may be run again."""
    try:
        outcome = ray.get(reference)
    except ray.exceptions.RayTaskError as error:  # what the function raised
        return Result(job, error=first_line(error.cause)), True
    except ray.exceptions.RayError as error:
        return Result(job, error=first_line(error)), True
    return Result(job, outcome.get("value"), outcome.get("error", "")), outcome.get("died", False)


def run_task(name: str, argument: Any, cores: int, path: list[str], folder: str, log: str | None) -> dict[str, Any]:
    """What runs in the worker: call the function `module:name`; its value, or an error in one line.

    Args:
        name, argument: what is called.
        cores: its threads; 0 leaves what Ray has set.
        path: where modules are found, besides the worker's own.
        folder: in which it works, where this machine has it.
        log: the file that everything it prints is appended to.
    """
    sys.path[:] = [*dict.fromkeys([*path, *sys.path])]
    if os.path.isdir(folder):
        os.chdir(folder)
    import torch

    if cores:
        torch.set_num_threads(cores)
    module, _, function = name.partition(":")
    try:
        with printing_into(log) as begin:
            return {"value": getattr(importlib.import_module(module), function)(argument)}
    except UserError as error:
        return {"error": str(error)}
    except SystemExit as stop:
        said = "" if log is None else last_line(Path(log), begin)
        return {"error": said or f"exit code {stop.code}", "died": stop.code not in (0, MISTAKE)}


@contextlib.contextmanager
def printing_into(log: str | None) -> Iterator[int]:
    """Inside, all that this process prints is appended to a file; yields how much it had before. None is no file."""
    if log is None:
        yield 0
        return
    with contextlib.ExitStack() as stack:
        with file_errors(Path(log), "write"):
            file = stack.enter_context(open(log, "ab"))
        begin, streams = file.tell(), (sys.stdout, sys.stderr)
        former = [os.dup(number) for number in (1, 2)]
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
        try:
            yield begin
        except UserError:
            raise
        except Exception:
            traceback.print_exc()
            raise
        finally:
            sys.stdout, sys.stderr = streams
            for number, before in zip((1, 2), former, strict=True):
                os.dup2(before, number)
                os.close(before)


def first_line(error: BaseException) -> str:
    """An error in one line."""
    return (str(error).strip().partition("\n")[0] or type(error).__name__)[:ERROR_LENGTH]
