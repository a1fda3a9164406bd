"""The seam between many jobs and what runs them: an executor is a class with the one method `map`.

for result in LocalExecutor(processes=4).map(train_one, [Job("a", {"width": 16}), Job("b", {"width": 32})]):
    print(result.job.name, result.error or result.value)
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from nas_osr.errors import UserError


@dataclass(frozen=True)
class Job:
    """One call of a function."""

    name: str
    "for messages."
    argument: Any
    "what the function is given; plain values, as JSON has them."
    log: Path | None = None
    "the file that everything it prints is appended to; None leaves that with this process's own output."


@dataclass(frozen=True)
class Result:
    """How a job ended: its value, or the error in one line, "" where there is a value."""

    job: Job
    value: Any = None
    error: str = ""
    interrupted: bool = False
    "whether it ended without a value because it was asked to."


def succeeded(results: Iterable[Result]) -> Iterator[Result]:
    """The results that have a value, up to the first job that fails: UserError. One that was interrupted is passed
    over, since the interruption itself follows."""
    for result in results:
        if result.error and not result.interrupted:
            raise UserError(f"{result.job.name}: {result.error}")
        if not result.error:
            yield result


@dataclass(frozen=True)
class Resources:
    """What each job may use."""

    cores: int = 0
    "its CPU threads, and the processors that Ray keeps for it; 0 leaves the threads of the environment, or torch's."
    gpus: float | None = None
    "the part of a GPU that Ray keeps for it; None is an equal share of those of the cluster, one at most."
    devices: tuple[str, ...] = ()
    "GPUs of this machine that its jobs are dealt out over, as CUDA_VISIBLE_DEVICES names them; each job sees one."


class Executor(Protocol):
    """Runs jobs."""

    def map(
        self, function: Callable[[Any], Any], jobs: Iterable[Job | None], resources: Resources, retries: int = 0
    ) -> Generator[Result, None, None]:
        """Call `function(job.argument)` for every job, each in a process of its own; results as they come.

        Jobs are taken one at a time, when there is room for one and every result so far has been handed out. So they
        may depend on results: None in the place of a job says that there is none before the next result.

        Args:
            function: at the top of a module, not of the script that is run; takes and returns plain values.
            jobs: any number of them.
            resources: of each job.
            retries: how often a job is run again whose process has died. A UserError, or exit code 2, is final.

        Raises:
            UserError: the function is not at the top of a module that can be imported.
            KeyboardInterrupt: jobs have been asked to end, and have; their results were handed out before.
        """
