"""A whole table: which architectures, which trainings are missing, and the file when none is."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict
from functools import lru_cache, partial
from itertools import count, product
from pathlib import Path
from typing import Any

from nas_osr.configuration import make_request
from nas_osr.errors import UserError
from nas_osr.files.locks import FolderInUse
from nas_osr.files.storage import replace_file
from nas_osr.files.text import read_object
from nas_osr.runs import provenance
from nas_osr.runs.names import TRIALS_FOLDER
from nas_osr.runs.progress import tell
from nas_osr.runs.run_folder import RunFolder
from nas_osr.search_spaces.architectures.architecture import Architecture, Branch, inconsistent_cell
from nas_osr.search_spaces.architectures.canonical import canonical, count_descriptions, fingerprint
from nas_osr.search_spaces.architectures.sampling import sample_architecture
from nas_osr.search_spaces.space import Space, all_paths
from nas_osr.seeds import derive_seed
from nas_osr.strategies.table import SCORED, TABLE_FILE, write_table
from nas_osr.strategies.table_cost import table_seconds
from nas_osr.strategies.table_training import TableBench, TablePlan, plan_table
from nas_osr.strategies.tabulate_request import TabulateRequest
from nas_osr.strategies.trials.sharing import KeeperGone, see_keeper, wait_for_beginning
from nas_osr.sweeps.backends import job_resources, open_executor
from nas_osr.sweeps.executor import Executor, Job, succeeded
from nas_osr.sweeps.shared import SECONDS, SharedExecutor

MAX_COMPLETE = 20_000  # descriptions of a space that are all looked at; larger ones are sampled
MAX_DRAWS = 200  # in a row that find nothing new before a sample is given up
MAY_GROW = ("sample", "seeds", "rotations", "jobs")
RETRIES = 2


def run_tabulate(request: TabulateRequest, command: list[str]) -> dict[str, Any]:
    """Train what is missing in `request.out`, and write the table; what it holds, in a few figures.

    Raises:
        UserError: anything in the request is wrong, missing or in use.
    """
    plan = plan_table(request)
    architectures = choose_architectures(plan.trial.space, request.sample, request.seed)
    trainings = len(architectures) * (request.seeds + len(plan.rotations))
    if request.dry_run:
        plan.trial.output.check()
        asked = {**plan.request.recorded(), "architectures": len(architectures), "trainings": trainings}
        return {"would_tabulate": asked, "seconds": table_seconds(plan, architectures)}
    if not request.quiet:
        tell("a table opens the test images: choose settings on it for another split or data set, not for this one")
        if plan.true.weights.recipe.watches:
            tell(
                "a table has the figures after every epoch: which one the recipe would keep, or end with, is left open"
            )
    while request.backend == "shared":
        try:
            return tabulate_as_planned(plan, architectures, command)
        except FolderInUse:
            help_table(plan, architectures)
    return tabulate_as_planned(plan, architectures, command)


def tabulate_as_planned(plan: TablePlan, architectures: list[Architecture], command: list[str]) -> dict[str, Any]:
    """Carry out a plan; see `run_tabulate`."""
    request, data = plan.request, open_bench(plan.request.recorded_text()).data
    with plan.trial.output.create() as run:
        if run.resumed or run.finished:
            run.extend(request.recorded(), MAY_GROW)
        if not run.finished:
            run.provenance(command, request.recorded(), request.seed, data.fingerprint)
        folder = run.path / TRIALS_FOLDER
        folder.mkdir(exist_ok=True)
        fill_table(plan, architectures, folder)
        rows = [collect(plan, architecture, folder) for architecture in architectures]
        header = describe_table(plan, len(architectures), run)
        write_table(run.path / TABLE_FILE, header, rows)
        run.finish()
    return {
        "out": str(run.path / TABLE_FILE),
        "architectures": len(rows),
        "complete": header["complete"],
        "trainings": len(rows) * (request.seeds + len(plan.rotations)),
        "seconds": sum(sum(row["seconds"]) for row in rows),
    }


def choose_architectures(space: Space, sample: int, seed: int) -> list[Architecture]:
    """Architectures that compute different things: of the whole space, or the first `sample` of random ones.

    UserError: the space is too large for all of it, or too small for the sample.
    """
    if not sample:
        descriptions = count_descriptions(space)
        if space.two_inputs or descriptions is None or descriptions > MAX_COMPLETE:
            many = "too many" if space.two_inputs or descriptions is None else f"{descriptions:,}"
            raise UserError(f"the space has {many} architectures: name how many to train with --sample")
        return list({fingerprint(found): canonical(found) for found in all_architectures(space)}.values())
    chosen: dict[str, Architecture] = {}
    missed = 0
    for number in count():
        drawn = canonical(sample_architecture(space, derive_seed(seed, "table", number)))
        missed = missed + 1 if fingerprint(drawn) in chosen else 0
        if missed > MAX_DRAWS:
            raise UserError(f"the space has hardly more than {len(chosen)} different architectures: leave --sample out")
        chosen.setdefault(fingerprint(drawn), drawn)
        if len(chosen) == sample:
            break
    return list(chosen.values())


def all_architectures(space: Space) -> Iterator[Architecture]:
    """Every description of an architecture of a space whose cells have one input."""
    names = [name for name in space.choices if name != "output"]
    for values in product(*(space.choices[name] for name in names)):
        chosen = dict(zip(names, values, strict=True))
        for ends in ends_of(space):
            choices = {**chosen, **({"output": ends[0]} if space.outputs else {})}
            for paths in product(*(all_paths(space.layers, end) for end in ends)):
                cells = sorted({cell for path in paths for cell in enumerate(path)})
                for operations in product(space.selectable, repeat=len(cells)):
                    at = dict(zip(cells, operations, strict=True))
                    branches = {
                        end: Branch(path, tuple(at[cell] for cell in enumerate(path)))
                        for end, path in zip(ends, paths, strict=True)
                    }
                    if inconsistent_cell(branches.values()) is None:
                        yield Architecture(space, branches, choices=choices)


def ends_of(space: Space) -> list[tuple[int, ...]]:
    """The scales at which an architecture's branches may end, together."""
    return [(end,) for end in space.outputs] if space.outputs else [space.branches]


def help_table(plan: TablePlan, architectures: list[Architecture]) -> None:
    """Make trainings of the table that another process keeps, until none is missing or that process has gone.

    Raises:
        UserError: it is another table, or has other images.
    """
    request = plan.request
    fingerprint = open_bench(request.recorded_text()).data.fingerprint
    run = wait_for_beginning(plan.trial.output.out, request.recorded(), fingerprint, may_change=MAY_GROW)
    if run is None:
        return
    if not request.quiet:
        tell(f"{run.path}: another process keeps this table; helping it")
    folder = run.path / TRIALS_FOLDER
    folder.mkdir(exist_ok=True)
    with contextlib.suppress(KeeperGone):
        fill_table(plan, architectures, folder, lambda: see_keeper(run.path))
        time.sleep(SECONDS)  # while the keeper writes the table


def fill_table(
    plan: TablePlan, architectures: list[Architecture], folder: Path, between: Callable[[], None] = lambda: None
) -> None:
    """Make the trainings that are missing; `between` is called meanwhile where processes share the folder.

    UserError: one cannot be made.
    """
    waiting = [found for found in architectures if missing_trainings(plan, found, folder)]
    request = plan.request.recorded_text()

    def jobs() -> Iterator[Job]:
        for architecture in waiting:
            task = {"request": request, "architecture": architecture.describe(), "folder": str(folder.absolute())}
            yield Job(fingerprint(architecture), task)

    def say(done: int) -> None:
        if not plan.request.quiet:
            tell(f"architecture {len(architectures) - len(waiting) + done}/{len(architectures)} done")

    if plan.request.jobs == 1 and plan.request.backend == "local":
        for done, job in enumerate(jobs(), start=1):
            train_missing(job.argument)
            say(done)
        return
    executor: Executor
    if plan.request.backend == "shared":
        executor = SharedExecutor(partial(claim_file, folder), partial(trained, plan), tell, between)
    else:
        executor = open_executor(plan.request.backend, plan.request.jobs, tell)
    resources = job_resources(plan.request, [plan.request.device])
    with closing(executor.map(train_missing, jobs(), resources, RETRIES)) as results:
        for done, _ in enumerate(succeeded(results), start=1):
            say(done)


def claim_file(folder: Path, job: Job) -> Path:
    """What a process locks that trains the architecture of a job."""
    return folder.parent / f"trial-{job.name}.claim"


def trained(plan: TablePlan, job: Job) -> bool | None:
    """True when no training of the architecture of a job is missing, else None."""
    names = {training_file(Path(), job.name, *item).name for item in trainings_of(plan)}
    return names <= names_in(Path(job.argument["folder"]), int(time.monotonic() / SECONDS)) or None


@lru_cache(maxsize=1)
def names_in(folder: Path, moment: int) -> frozenset[str]:
    """The files of a folder, looked up once a `moment`."""
    return frozenset(os.listdir(folder))


@lru_cache(maxsize=1)
def open_bench(request: str) -> TableBench:
    """The images and the device of a table, once a process; `request` is JSON."""
    plan = plan_table(make_request(TabulateRequest, {**json.loads(request), "quiet": True}, "tabulate"))
    return TableBench(plan, plan.trial.data.load(), plan.trial.machine.open(ranks=False))


def train_missing(task: Mapping[str, Any]) -> None:
    """Make those trainings of an architecture that are missing, each into a file of its own."""
    bench, folder = open_bench(task["request"]), Path(task["folder"])
    architecture = Architecture.from_description(bench.plan.trial.space, task["architecture"])
    for kind, number in missing_trainings(bench.plan, architecture, folder):
        make = {"seed": bench.train_true, "rotation": bench.train_as_searched, "untrained": bench.score_untrained}[kind]
        found = make(architecture, number)
        with replace_file(training_file(folder, fingerprint(architecture), kind, number)) as file:
            file.write(json.dumps(found, allow_nan=False).encode())


def trainings_of(plan: TablePlan) -> list[tuple[str, int]]:
    """Those of each architecture: kind and number; the last is the look at it untrained."""
    seeds = [("seed", number) for number in range(plan.request.seeds)]
    return [*seeds, *(("rotation", number) for number in range(len(plan.rotations))), ("untrained", 0)]


def missing_trainings(plan: TablePlan, architecture: Architecture, folder: Path) -> list[tuple[str, int]]:
    """Those that have left no file."""
    name = fingerprint(architecture)
    return [item for item in trainings_of(plan) if not training_file(folder, name, *item).exists()]


def training_file(folder: Path, name: str, kind: str, number: int) -> Path:
    """Where a training of the architecture with this fingerprint leaves its figures."""
    return folder / f"trial-{name}-{kind}-{number}.json"


def collect(plan: TablePlan, architecture: Architecture, folder: Path) -> dict[str, Any]:
    """The row of an architecture whose trainings are all there. Raises UserError: a file is broken."""
    found = {item: read_object(training_file(folder, fingerprint(architecture), *item)) for item in trainings_of(plan)}
    first = next(iter(found.values()))

    def figures(wanted: str) -> dict[str, Any]:
        parts = [part["judged"] for (kind, _), part in found.items() if kind == wanted]
        return {rule: {score: [part[rule][score] for part in parts] for score in SCORED} for rule in plan.rules}

    return {
        "fingerprint": fingerprint(architecture),
        **architecture.describe(),
        "parameters": first["parameters"],
        "macs": first["macs"],
        **found["untrained", 0],
        "true": figures("seed"),
        "pas": figures("rotation"),
        "seconds": [part["seconds"] for (kind, _), part in found.items() if kind != "untrained"],
    }


def describe_table(plan: TablePlan, architectures: int, run: RunFolder) -> dict[str, Any]:
    """The first line of the file."""
    names, space = plan.trial.protocol.class_names, plan.trial.space
    complete = not plan.request.sample
    about = run.read_provenance()
    return {
        "config": {name: value for name, value in plan.request.recorded().items() if name != "data_dir"},
        "protocol": plan.trial.protocol.to_dict(),
        "space": asdict(space),
        "complete": complete,
        "architectures": architectures,
        "epochs": plan.true.weights.epochs,
        "seeds": plan.request.seeds,
        "rotations": [[names[label] for label in classes.pseudo] for classes in plan.rotations],
        "rules": list(plan.rules),
        "scores": list(SCORED),
        "provenance": {
            **{name: about[name] for name in ("command", "versions", "machine", "git_commit", "data_fingerprint")},
            "written": provenance.utc_now(),
        },
    }
