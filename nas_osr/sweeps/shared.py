"""Jobs that several processes have alike, perhaps on several machines: each is done by whoever claims it first.

A claim is a lock on a file, which ends with the processes that hold it, so that those of a killed one are free again.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas_osr.errors import UserError
from nas_osr.files.locks import lock_file
from nas_osr.sweeps.executor import Job, Resources, Result
from nas_osr.sweeps.local import MISTAKE, NO_MORE, JobProcess, LocalExecutor, stopping_signals

SECONDS = 0.5  # between two looks at what others do


@dataclass(frozen=True)
class Claim:
    """What this process alone does; `descriptor` can be handed on to one that does it."""

    path: Path
    descriptor: int

    def close(self, settled: bool) -> None:
        """Give it free; `settled` is whether it has been done, so that nobody needs the file."""
        if settled:
            self.path.unlink(missing_ok=True)
        os.close(self.descriptor)


def try_claim(path: Path) -> Claim | None:
    """A claim by this file; None where another process has it. UserError: there are no locks here.

    Whether the job has been done meanwhile is to be asked after this.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if lock_file(descriptor):
            return Claim(path, descriptor)
        raise UserError(f"{path.parent}: processes share it by locks, which its file system has not: use --backend ray")
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise


@dataclass
class SharedExecutor:
    """See `nas_osr.sweeps.executor.Executor`: one job at a time, of those that no other process does."""

    claim_file: Callable[[Job], Path]
    "of a job."
    settled: Callable[[Job], Any]
    "what has come of a job that some process has done; None where none has."
    report: Callable[[str], None]
    "is told in a line what is ended or run again."
    between: Callable[[], None] = lambda: None
    "is called while no job runs here; what it raises ends the jobs."
    begun: Callable[[Job], None] = lambda job: None
    "is called when this process has claimed a job, before it runs."
    ended: Callable[[Result], None] = lambda result: None
    "is called with what has come of it, before others may claim it."
    hold: Sequence[int] = ()
    "descriptors that the processes of jobs keep open besides."

    def map(
        self, function: Callable[[Any], Any], jobs: Iterable[Job | None], resources: Resources, retries: int = 0
    ) -> Generator[Result, None, None]:
        """Results of all jobs, whoever has done them."""
        waiting, more = iter(jobs), True
        pending: list[Job] = []
        own: tuple[JobProcess, Claim] | None = None
        failures: Counter[str] = Counter()
        with stopping_signals():
            try:
                while more or pending:
                    while more:
                        job = next(waiting, NO_MORE)
                        more = job is not NO_MORE
                        if not isinstance(job, Job):
                            break
                        pending.append(job)
                    if own is not None and own[0].process.poll() is not None:
                        (call, claim), result = own, own[0].result()
                        failures[call.job.name] += 1
                        again = call.process.returncode not in (0, MISTAKE) and failures[call.job.name] <= retries
                        if not again:
                            self.ended(result)
                        own = None
                        claim.close(settled=self.settled(call.job) is not None)
                        if again:
                            self.report(f"{call.job.name}: run again after {result.error}")
                            continue
                        pending.remove(call.job)
                        yield result
                        continue
                    elsewhere = [job for job in pending if own is None or job is not own[0].job]
                    found = next(((job, value) for job in elsewhere if (value := self.settled(job)) is not None), None)
                    if found is not None:
                        pending.remove(found[0])
                        yield Result(*found)
                        continue
                    if own is None:
                        self.between()
                        own = self.begin(pending, function, resources)
                    time.sleep(SECONDS)
            finally:
                if own is not None:
                    if own[0].process.poll() is None:
                        LocalExecutor(report=self.report).stop([own[0]])
                    own[1].close(settled=False)

    def begin(
        self, pending: Iterable[Job], function: Callable[[Any], Any], resources: Resources
    ) -> tuple[JobProcess, Claim] | None:
        """The first job that nobody does, begun; None where there is none."""
        for job in pending:
            claim = try_claim(self.claim_file(job))
            if claim is None:
                continue
            if self.settled(job) is not None:  # while the claim was waited for
                claim.close(settled=True)
                return None
            try:
                self.begun(job)
                return JobProcess(job, function, resources, (claim.descriptor, *self.hold), retries=0), claim
            except BaseException:
                claim.close(settled=False)
                raise
        return None
