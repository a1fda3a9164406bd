"""Jobs as tasks of a Ray cluster: the one that RAY_ADDRESS names, or one that is started on this machine."""

from __future__ import annotations

import importlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any

from nas_osr.errors import UserError
from nas_osr.sweeps.executor import Job, Resources, Result
from nas_osr.sweeps.local import ERROR_LENGTH, NO_MORE

CONNECT_SECONDS = 10


@dataclass
class RayExecutor:
    """See `nas_osr.sweeps.executor.Executor`. A job's log is left to Ray. Paths are the same on all machines."""

    processes: int = 1
    "how many at a time."
    report: Callable[[str], None] = lambda line: None
    "is told in a line what is run again."

    def map(
        self, function: Callable[[Any], Any], jobs: Iterable[Job | None], resources: Resources, retries: int = 0
    ) -> Generator[Result, None, None]:
        """An interruption cancels what runs. A worker that is killed, or a machine that goes, costs a retry."""
        ray = open_ray(self.processes)
        cores = max(1, resources.cores) if os.environ.get("RAY_ADDRESS") else 1
        task = ray.remote(run_task).options(num_cpus=cores, max_retries=0)
        name = f"{function.__module__}:{function.__qualname__}"
        waiting, more = iter(jobs), True
        running: dict[Any, tuple[Job, int]] = {}

        def start(job: Job, left: int) -> None:
            running[task.remote(name, job.argument, cores, sys.path)] = job, left

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
        finally:
            for reference in running:
                ray.cancel(reference, force=True)


def open_ray(processes: int) -> Any:
    """The module ray, connected: to the cluster of RAY_ADDRESS, or to one of `processes` workers here. UserError."""
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
                "num_cpus": processes,
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


def result_of_task(ray: Any, reference: Any, job: Job) -> tuple[Result, bool]:
    """How a task ended, and whether its process died, so that it may be run again."""
    try:
        outcome = ray.get(reference)
    except ray.exceptions.RayTaskError as error:  # what the function raised
        return Result(job, error=first_line(error.cause)), True
    except ray.exceptions.RayError as error:
        return Result(job, error=first_line(error)), True
    return Result(job, outcome.get("value"), outcome.get("error", "")), False


def run_task(name: str, argument: Any, cores: int, path: list[str]) -> dict[str, Any]:
    """What runs in the worker: call the function `module:name`; its value, or a user's mistake in one line."""
    sys.path[:] = [*dict.fromkeys([*path, *sys.path])]
    import torch

    torch.set_num_threads(cores)
    module, _, function = name.partition(":")
    try:
        return {"value": getattr(importlib.import_module(module), function)(argument)}
    except UserError as error:
        return {"error": str(error)}


def first_line(error: BaseException) -> str:
    """An error in one line."""
    return (str(error).strip().partition("\n")[0] or type(error).__name__)[:ERROR_LENGTH]
