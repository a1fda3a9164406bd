"""Executors by name, and what each job may use of them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Collection, Sequence

from nas_osr.errors import UserError
from nas_osr.sweeps.executor import Executor, Resources
from nas_osr.sweeps.job_options import JobOptions
from nas_osr.sweeps.local import LocalExecutor, share_cores, visible_gpus


def open_executor(backend: str, processes: int, report: Callable[[str], None], hold: Sequence[int] = ()) -> Executor:
    """What runs so many jobs at a time; `report` is told in a line what is ended or run again.

    `hold` are descriptors that processes of this machine keep open, such as a lock that is to outlive this one.
    UserError: it is not there.
    """
    if backend == "ray":
        from nas_osr.sweeps.ray_cluster import RayExecutor

        return RayExecutor(processes, report)
    return LocalExecutor(processes, hold, report)


def check_backend(options: JobOptions, in_turn: bool = False) -> None:
    """UserError when what is to run jobs is not installed, or does not do what is asked of it.

    `in_turn` is whether one job at a time is done in this process.
    """
    if options.backend == "ray" and importlib.util.find_spec("ray") is None:
        raise UserError("backend ray needs the package ray: pip install 'nas-osr[ray]'")
    if options.backend != "ray" and options.gpus_per_job is not None:
        raise UserError("gpus_per_job: Ray alone counts GPUs: leave it out, or use --backend ray")
    if in_turn and options.backend == "local" and options.jobs == 1 and options.cpus_per_job is not None:
        raise UserError("cpus_per_job: one job at a time is done in this process: say with --threads what it may use")


def check_shared(options: JobOptions) -> None:
    """UserError when one of the processes that share a folder is told to do several jobs at a time."""
    if options.jobs > 1:
        raise UserError("backend shared: each process does one job at a time: leave --jobs out, start more processes")


def job_resources(options: JobOptions, devices: Collection[str] = ("auto",)) -> Resources:
    """What each job may use.

    Args:
        options: checked.
        devices: what jobs are told to compute on. Where one of them names a GPU by its number, none is dealt out.
    """
    cores = options.cpus_per_job or share_cores(1 if options.backend == "shared" else options.jobs).cores
    gpus = 0.0 if options.gpus_per_job is None and set(devices) == {"cpu"} else options.gpus_per_job
    numbered = any(device.startswith("cuda:") for device in devices)
    dealt_out = options.backend == "local" and options.jobs > 1 and not numbered and set(devices) != {"cpu"}
    return Resources(cores, gpus, visible_gpus() if dealt_out else ())
