"""A whole sweep: what has not finished yet, in the order of its needs, by an executor."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas_osr.sweeps.executor import Executor, Job, Resources, Result
from nas_osr.sweeps.shared import SharedExecutor
from nas_osr.sweeps.sweep_file import Run, Sweep
from nas_osr.sweeps.sweep_folder import SweepFolder


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    status: str
    "finished, failed, interrupted, or blocked (something that it needs has not finished)."
    error: str = ""
    'the last line that it printed, or what it waits for; "" when finished.'
    skipped: bool = False
    "whether it had finished before."


def run_sweep(
    sweep: Sweep,
    folder: SweepFolder,
    executor: Executor | None,
    command: Callable[[list[str]], Any],
    resources: Resources,
    *,
    retries: int = 0,
    only: Collection[str] | None = None,
    report: Callable[[str], None] = lambda line: None,
    hold: Sequence[int] = (),
) -> dict[str, Outcome]:
    """Run what has not finished yet, and go on after failures.

    Args:
        sweep: checked runs, each after those that it needs.
        folder: locked.
        executor: where the runs take place; None of a folder that is shared: here, one at a time.
        command: runs `nas-osr ARGUMENTS`, and leaves its process with the exit code.
        resources: of each run.
        retries: how often a run is started again whose process has died.
        only: names of the runs to look at; what they need comes too. None is all.
        report: is told in a line what starts and ends.
        hold: descriptors that runs keep open which this process makes beside others.

    Returns:
        How each run ended, by name, in the order of the sweep.

    Raises:
        KeyboardInterrupt: the processes have been asked to save and have ended.
    """
    runs = {run.name: run for run in select(sweep, only)}
    outcomes = {name: Outcome("finished", skipped=True) for name in settled(runs, folder)}
    for name in (name for name in runs if name in outcomes):
        again = [need for need in runs[name].needs if need not in outcomes]
        if again:
            report(
                f"{name}: has finished, and stays as it is, but {again[0]}, which it rests on, is made again: remove "
                f"{folder.path / name} to make it again, too"
            )

    def jobs() -> Iterator[Job | None]:
        waiting = [run for run in runs.values() if run.name not in outcomes]
        while waiting:
            run = next((run for run in waiting if outcomes.keys() >= set(run.needs)), None)
            if run is None:
                yield None
                continue
            waiting.remove(run)
            lost = [need for need in run.needs if outcomes[need].status != "finished"]
            if lost:
                outcomes[run.name] = Outcome("blocked", f"needs {lost[0]}, which has not finished")
                continue
            job = folder.job(run)
            if not folder.shared:
                begin(job)
            yield job

    def begin(job: Job) -> None:
        place = [*runs].index(job.name) + 1
        report(f"[{place}/{len(runs)}] {job.name}: started, output in {job.log}")
        folder.begin(runs[job.name])

    def end(result: Result) -> None:
        status = "finished" if not result.error else "interrupted" if result.interrupted else "failed"
        folder.end(runs[result.job.name], status, result.error)
        tell_end(result.job.name, Outcome(status, result.error))

    def tell_end(name: str, outcome: Outcome, where: str = "") -> None:
        outcomes[name] = outcome
        report(f"{name}: {outcome.status}{where}{': ' if outcome.error else ''}{outcome.error}")

    executor = executor or SharedExecutor(
        lambda job: folder.claim_file(runs[job.name]),
        lambda job: folder.ended_elsewhere(runs[job.name]),
        report,
        begun=begin,
        ended=end,
        hold=hold,
    )
    with contextlib.closing(executor.map(command, jobs(), resources, retries)) as results:
        for result in results:
            if not folder.shared:
                end(result)
            elif result.job.name not in outcomes:
                tell_end(result.job.name, Outcome(**result.value), " elsewhere")
    return {name: outcomes[name] for name in runs}


def select(sweep: Sweep, only: Collection[str] | None) -> list[Run]:
    """The runs of these names and what they need, in the order of the sweep."""
    wanted: set[str] = set()
    for run in reversed(sweep.runs):  # whoever needs a run comes after it
        if only is None or run.name in only or run.name in wanted:
            wanted |= {run.name, *run.needs}
    return [run for run in sweep.runs if run.name in wanted]


def settled(runs: Mapping[str, Run], folder: SweepFolder) -> set[str]:
    """The runs that have finished together with everything that they need; what rests on a new run is made anew."""
    done: set[str] = set()
    for run in runs.values():
        if folder.finished(run) and (folder.keeps_run(run) or done.issuperset(run.needs)):
            done.add(run.name)
    return done
