"""Several trials at a time, each in a process of its own: of this machine, or of a Ray cluster that shares a disk."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from nas_osr.configuration import make_request
from nas_osr.files.storage import file_errors, replace_file
from nas_osr.files.text import read_object
from nas_osr.runs.names import TRIALS_FOLDER
from nas_osr.runs.progress import tell
from nas_osr.runs.recorder import Recorder
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.latencies import read_latencies
from nas_osr.strategies.search_plan import plan_search
from nas_osr.strategies.search_request import SearchRequest
from nas_osr.strategies.trials.asking import Asking
from nas_osr.strategies.trials.in_turn import Keep
from nas_osr.strategies.trials.trial import Proposal, TrialRecorder, TrialRunner, TrialStates
from nas_osr.sweeps.backends import open_executor
from nas_osr.sweeps.executor import Executor, Job, succeeded
from nas_osr.sweeps.shared import SharedExecutor

RETRIES = 2  # of a trial whose process dies


def try_in_processes(asking: Asking, runner: TrialRunner, recorder: Recorder, keep: Keep) -> None:
    """Make the trials that are still to be made, and keep each when all before it are.

    What has ended out of turn lies in the run folder meanwhile, so that nothing is lost with this process.

    Raises:
        UserError: a trial cannot be made.
    """
    plan, trials = runner.plan, asking.strategy.config.trials
    place = recorder.folder()
    assert place is not None  # there is one rank only
    folder, status = place / TRIALS_FOLDER, Status(trials, asking, quiet=plan.output.quiet)
    ended: dict[int, tuple[dict[str, Any], dict[str, Any]]] = {}

    def keep_in_turn() -> None:
        while (trial := asking.told()) in ended:
            keep(*ended.pop(trial))
            result_file(folder, trial).unlink(missing_ok=True)

    def jobs() -> Iterator[Job | None]:
        while len(asking.asked) < trials:
            trial, proposal = len(asking.asked), asking.next()
            if proposal is None:
                yield None
                continue
            if trial < asking.done:
                continue
            found = asking.repeat(trial) or read_outcome(folder, trial, describe_proposal(proposal))
            if found is not None:
                ended[trial] = found
                keep_in_turn()
                continue
            status.begin()
            yield Job(f"trial {trial + 1}", describe_job(plan.recorded, proposal, trial, asking.root(trial), folder))

    with file_errors(folder, "create"):
        folder.mkdir(exist_ok=True)
    executor: Executor = (
        shared_executor(folder, outcome_of, status.failed)
        if plan.backend == "shared"
        else open_executor(plan.backend, plan.jobs, status.failed)
    )
    with closing(executor.map(try_one, jobs(), plan.resources, RETRIES)) as results:
        for result in succeeded(results):
            record, timing = result.value
            ended[record["epoch"]] = record, timing
            keep_in_turn()
            status.end()
    if not any(folder.iterdir()):
        folder.rmdir()


def shared_executor(
    folder: Path,
    settled: Callable[[Job], Any],
    report: Callable[[str], None],
    between: Callable[[], None] = lambda: None,
) -> SharedExecutor:
    """What makes trials beside other processes that share the folder `trials`; see `SharedExecutor`."""
    return SharedExecutor(lambda job: folder.parent / f"trial-{job.argument['trial']}.claim", settled, report, between)


def outcome_of(job: Job) -> list[dict[str, Any]] | None:
    """The record and the timing that some process has left of a trial; None where none has. UserError."""
    task = job.argument
    found = read_outcome(Path(task["folder"]), task["trial"], task["proposal"])
    return None if found is None else [*found]


def describe_job(
    recorded: Mapping[str, Any], proposal: Proposal, trial: int, root: int, folder: Path
) -> dict[str, Any]:
    """What `try_one` is given: plain values."""
    return {
        "request": dict(recorded),
        "proposal": describe_proposal(proposal),
        "trial": trial,
        "root": root,
        "folder": str(folder.absolute()),
    }


def describe_proposal(proposal: Proposal) -> dict[str, Any]:
    """It as plain values."""
    return {"epochs": proposal.epochs, "follows": proposal.follows, **proposal.architecture.describe()}


def try_one(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Make one trial in this process, see `describe_job`; its record and its timing, also left in a file."""
    plan = plan_search(make_request(SearchRequest, {**task["request"], "quiet": True}, "trial"))
    strategy: Any = plan.strategy  # a Trials, which this file is imported by
    asked, trial, folder = task["proposal"], task["trial"], Path(task["folder"])
    if plan.needs_latencies:
        plan = replace(plan, budget=replace(plan.budget, table=read_latencies(folder.parent)))
    fabric, data = plan.machine.open(ranks=False), plan.data.load()
    states = TrialStates(folder) if strategy.continues else None
    runner = TrialRunner(plan, strategy.rotations(plan), data, fabric, states)
    former = [] if states is None else states.load(asked["follows"])
    proposal = Proposal(Architecture.from_description(plan.space, asked), asked["epochs"], asked["follows"])
    record, timing = runner.run(proposal, task["root"], TrialRecorder(None, trial, former=former))
    outcome = {"proposal": asked, "record": record, "timing": timing}
    with replace_file(result_file(folder, trial)) as file:
        file.write(json.dumps(outcome, allow_nan=False).encode())
    return [record, timing]


def result_file(folder: Path, trial: int) -> Path:
    """Where a trial leaves its outcome until all before it are kept."""
    return folder / f"trial-{trial}.json"


def read_outcome(folder: Path, trial: int, asked: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """What a trial has left that ended out of turn, or elsewhere; None where none of this proposal did. UserError."""
    path = result_file(folder, trial)
    if not path.exists():
        return None
    found = read_object(path)
    return (found["record"], found["timing"]) if found.get("proposal") == asked else None


class Status:
    """A line, whenever a trial begins or ends: how many are done, run, have failed; the best, and the time left."""

    def __init__(self, trials: int, asking: Asking, quiet: bool) -> None:
        self.trials, self.asking, self.quiet = trials, asking, quiet
        self.running, self.ended, self.failures, self.started = 0, 0, 0, time.monotonic()

    def begin(self) -> None:
        """A trial begins."""
        self.running += 1

    def end(self) -> None:
        """A trial has ended."""
        self.running, self.ended = self.running - 1, self.ended + 1
        self.show()

    def failed(self, line: str) -> None:
        """A process has died, and its trial is made again; or something else is to be said."""
        self.failures += "run again" in line
        if not self.quiet:
            tell(line)

    def show(self) -> None:
        """Print the line."""
        if self.quiet:
            return
        done = len(self.asking.tried)
        parts = [f"{done}/{self.trials} done, {self.running} running, {self.failures} failed"]
        if done:
            best = self.asking.strategy.best(self.asking.plan, self.asking.tried)
            parts.append(f"best {self.asking.strategy.criterion} {best.score:.4f} in trial {best.record['epoch'] + 1}")
        seconds = (time.monotonic() - self.started) / self.ended * (self.trials - done)
        tell("  ".join([*parts, f"{timedelta(seconds=round(seconds))} left"]))
