"""A search of trials by several processes that share its folder: the same command, started as often as one likes.

Whoever locks the folder keeps the search: it records what ends, in turn, and writes the result. All propose the same
trials, since a proposal rests on recorded ones alone, and each is made by whoever claims it first. When the keeper has
gone, another takes its place.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from nas_osr.errors import UserError
from nas_osr.files.locks import FolderInUse, lock_folder
from nas_osr.plain import plain
from nas_osr.runs.names import LATENCY_FILE, TRIALS_FOLDER, WARM_START_FILE
from nas_osr.runs.progress import tell
from nas_osr.runs.resumption import check_same_config
from nas_osr.runs.run_folder import RunFolder
from nas_osr.search_spaces.latencies import read_latencies
from nas_osr.strategies.base import SearchPlan
from nas_osr.strategies.trials.asking import Asking
from nas_osr.strategies.trials.pool import RETRIES, describe_job, result_file, shared_executor, try_one
from nas_osr.strategies.trials.warm_start import read_first
from nas_osr.sweeps.executor import Job
from nas_osr.sweeps.shared import SECONDS


class KeeperGone(Exception):
    """Nobody keeps the search."""


def help_search(plan: SearchPlan) -> None:
    """Make trials of the search that another process keeps, until nothing is left to do or that process has gone.

    Raises:
        UserError: it is another search, or has other images.
    """
    files = {LATENCY_FILE: plan.needs_latencies, WARM_START_FILE: plan.strategy.config.warm_start != "none"}
    needed = [name for name, needs in files.items() if needs]
    run = wait_for_beginning(plan.output.out, plan.recorded, plan.data.load().fingerprint, needed)
    if run is None:
        return
    say: Callable[[str], None] = (lambda line: None) if plan.output.quiet else tell
    say(f"{run.path}: another process keeps this search; helping it")
    if plan.needs_latencies:
        plan = replace(plan, budget=replace(plan.budget, table=read_latencies(run.path)))
    if plan.strategy.config.warm_start != "none":
        plan = replace(plan, first=read_first(run.path / WARM_START_FILE, plan.space))
    folder = run.path / TRIALS_FOLDER
    asking = Asking(plan.strategy, plan, Kept(run))

    def settled(job: Job) -> Any:
        # in this order: an outcome goes only when it has been recorded
        trial = job.argument["trial"]
        return result_file(folder, trial).exists() or len(run.read_history()) > trial or None

    executor = shared_executor(folder, settled, say, lambda: see_keeper(run.path))
    try:
        with closing(executor.map(try_one, list_jobs(asking, plan, folder), plan.resources, RETRIES)) as results:
            for result in results:
                if result.error:
                    raise UserError(f"{result.job.name}: {result.error}")
    except KeeperGone:
        return
    time.sleep(SECONDS)  # while the keeper writes the result


def list_jobs(asking: Asking, plan: SearchPlan, folder: Path) -> Iterator[Job | None]:
    """The trials that are neither recorded nor repeat another; None while a proposal has to wait."""
    while len(asking.asked) < asking.strategy.config.trials:
        trial, proposal = len(asking.asked), asking.next()
        if proposal is None:
            yield None
        elif trial >= asking.told() and asking.repeat(trial) is None:
            argument = describe_job(plan.recorded, proposal, trial, asking.root(trial), folder)
            yield Job(f"trial {trial + 1}", argument)


def wait_for_beginning(
    out: str,
    recorded: Mapping[str, Any],
    data_fingerprint: str,
    files: Collection[str] = (),
    may_change: Collection[str] = (),
) -> RunFolder | None:
    """The folder of a run that has begun; None when its keeper has gone before that.

    Args:
        out: the folder.
        recorded: what its config.yaml is to hold.
        data_fingerprint: of the training images here.
        files: what it is to have besides.
        may_change: entries that may differ.

    Raises:
        UserError: it is another run than this one, or has other images.
    """
    run = RunFolder(out)
    while not (begun(run) and all((run.path / name).exists() for name in files)):
        try:
            see_keeper(run.path)
        except KeeperGone:
            return None
        time.sleep(SECONDS)
    check_same_config(run.path, run.read_config(), plain(recorded, "config"), may_change)
    if run.read_provenance().get("data_fingerprint") != data_fingerprint:
        raise UserError(f"{run.path}: the training images here are not those of the process that keeps the folder")
    return run


def begun(run: RunFolder) -> bool:
    """Whether its provenance is there."""
    return (run.path / "provenance.json").exists() and not run.read_provenance().get("clearing")


def see_keeper(path: Path) -> None:
    """KeeperGone when no process has the folder locked."""
    try:
        lock_folder(path).close()
    except FolderInUse:
        return
    raise KeeperGone


class Kept:
    """The history that another process writes; a `Recorder` as far as `Asking` needs one."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run

    def history(self) -> list[dict[str, Any]]:
        """All records so far."""
        return self.run.read_history()
