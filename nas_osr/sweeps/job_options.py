"""How many jobs at a time, and what runs them: the options of every command that has jobs. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from nas_osr.configuration import Checked
from nas_osr.option_docs import Range


@dataclass
class JobOptions(Checked):
    """How many jobs at a time, and what runs them."""

    jobs: Annotated[int, Range(1, 4096)] = 1
    "jobs at a time, each in a process of its own; of this machine's GPUs each job has one."
    backend: Literal["local", "ray", "shared"] = "local"
    """what runs jobs: processes of this machine; the Ray cluster of RAY_ADDRESS, or one here (pip install
    nas-osr[ray]); or shared, this command, started so often on machines that share the folder: each does one at a
    time."""
    cpus_per_job: Annotated[int | None, Range(1, 4096)] = None
    "threads of each job, and the processors that Ray keeps for it; a share of this machine's cores when not given."
    gpus_per_job: Annotated[float | None, Range(0, 1)] = None
    "GPU that Ray keeps for each job, .5 for two jobs on one; a share of the cluster's, at most one, when not given."
