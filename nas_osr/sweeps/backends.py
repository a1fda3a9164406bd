"""Executors by name."""

from __future__ import annotations

from collections.abc import Callable

from nas_osr.sweeps.executor import Executor
from nas_osr.sweeps.local import LocalExecutor


def open_executor(backend: str, processes: int, report: Callable[[str], None]) -> Executor:
    """What runs so many jobs at a time; `report` is told in a line what is ended or run again.

    UserError: it is not there.
    """
    if backend == "ray":
        from nas_osr.sweeps.ray_cluster import RayExecutor

        return RayExecutor(processes, report)
    return LocalExecutor(processes, report=report)
