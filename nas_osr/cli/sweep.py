"""`nas-osr sweep`: many runs from one file, by an executor, resumable."""

from __future__ import annotations

import fnmatch
import re
import shlex
import sys
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import Annotated, Any

from nas_osr.cli.commands import COMMANDS
from nas_osr.cli.main import main
from nas_osr.cli.options import set_entry
from nas_osr.cli.show import show_json, show_table
from nas_osr.configuration import (
    UserPath,
    check_complete,
    check_options,
    make_request,
)
from nas_osr.errors import UserError
from nas_osr.option_docs import NOT_NEGATIVE, Range, option_types
from nas_osr.plugins import load
from nas_osr.runs.progress import tell
from nas_osr.sweeps.backends import check_backend, check_shared, job_resources, open_executor
from nas_osr.sweeps.job_options import JobOptions
from nas_osr.sweeps.run import Outcome, run_sweep
from nas_osr.sweeps.sweep_file import Run, Sweep, read_sweep, shipped
from nas_osr.sweeps.sweep_folder import SweepFolder

EXIT_FAILED = 1
# What a command does with a configuration; with `dry_run` it checks all of it.
CHECKS = {"search": "nas_osr.strategies.run:run_search", "retrain": "nas_osr.retrain.run:run_retrain"}
UNKNOWN_YET = "random:0"  # stands for an architecture that an earlier run of the sweep is to find


@dataclass
class SweepRequest(JobOptions):
    """Run many runs from one file: those that have finished are skipped, so that the same command resumes a sweep.

    Every run's options are checked before the first one starts. A run that fails does not stop the others; the exit
    code is then 1.
    """

    file: str | None = None
    "a sweep file, or the name of a shipped one (see --list)."
    out: UserPath | None = None
    "folder of the sweep; runs/sweeps/NAME when not given."
    jobs: Annotated[int, Range(1, 4096)] = 1
    "runs at a time, each in a process with its share of the cores; of this machine's GPUs each run has one."
    retries: Annotated[int, NOT_NEGATIVE] = 0
    "how often a run whose process has died is started again; one that ends with exit code 2, a mistake, is not."
    only: str | None = None
    'pattern of the runs to make, such as "cac-*"; what they need is made as well.'
    set: dict[str, Any] = field(default_factory=dict)
    "options that win over the file's in all runs, for example --set.epochs 1."
    list: bool = False
    "list the shipped sweep files and stop."
    dry_run: bool = False
    "check everything, print the commands and stop."
    json: bool = False
    "print the result as one JSON object."
    quiet: bool = False
    "print no progress."


def sweep(request: SweepRequest, command: Sequence[str]) -> None:
    """Run a sweep and print how its runs ended and what they measured; exit code 1 when one failed."""
    if request.list:
        list_shipped(request.json)
        return
    if request.file is None:
        raise UserError("sweep: name a sweep file, or a shipped one: nas-osr sweep --list shows them")
    plan = read_sweep(request.file, option_names, flatten(request.set))
    only = None
    if request.only is not None:
        only = {run.name for run in plan.runs if fnmatch.fnmatchcase(run.name, request.only)}
        if not only:
            raise UserError(f"--only {request.only}: no run has such a name; the first is {plan.runs[0].name}")
    check_sweep(plan, only)
    check_backend(request)
    shared = request.backend == "shared"
    if shared:
        check_shared(request)
    folder = SweepFolder(request.out or f"runs/sweeps/{plan.name}", option_names, shared)
    folder.check_unchanged(with_needed(plan, only))
    if request.dry_run:
        show_plan(with_needed(plan, only), folder, request.json)
        return

    def report(line: str) -> None:
        if not request.quiet:
            tell(line)

    try:
        with folder.locked() as lock:
            outcomes = run_sweep(
                plan,
                folder,
                None if shared else open_executor(request.backend, request.jobs, report, [lock]),
                run_command,
                job_resources(request, {str(run.options.get("device", "auto")) for run in plan.runs}),
                retries=request.retries,
                only=only,
                report=report,
                hold=[lock],
            )
    except KeyboardInterrupt as interruption:
        raise type(interruption)(f"go on with: {shlex.join(command)}") from None
    show_outcomes(plan, folder, outcomes, request.json)
    if any(outcome.status != "finished" for outcome in outcomes.values()):
        raise SystemExit(EXIT_FAILED)


def run_command(arguments: list[str]) -> None:
    """Run `nas-osr ARGUMENTS` in this process; leaves it when the command fails."""
    code = main(arguments)
    if code:
        sys.exit(code)


@cache
def option_names(command: str) -> set[str]:
    """The options of a command. Raises UserError when a sweep cannot run it."""
    if command not in COMMANDS or command == "sweep":
        choices = ", ".join(name for name in COMMANDS if name != "sweep")
        raise UserError(f"command {command!r} is none that a sweep can run: choose from {choices}")
    return set(option_types(COMMANDS[command].options))


def flatten(options: Mapping[str, Any], head: str = "") -> dict[str, Any]:
    """Nested mappings as dotted names: what `--set.objective_config.alpha 3` parses to, as it was written."""
    flat: dict[str, Any] = {}
    for name, value in options.items():
        flat |= flatten(value, f"{head}{name}.") if isinstance(value, dict) else {f"{head}{name}": value}
    return flat


def check_sweep(plan: Sweep, only: Container[str] | None = None) -> None:
    """Check the options of every run as its command will, without running any. Raises UserError, naming the run.

    Args:
        plan: the sweep; a run comes after those that it needs.
        only: names of the runs that are asked for; None is all.
    """
    records: dict[str, Any] = {}
    for run in with_needed(plan, only):
        try:
            records[run.name] = check_run(run, {name: records[name] for name in run.needs})
        except UserError as error:
            raise UserError(f"{run.where}: run {run.name}: {error}") from None


def with_needed(plan: Sweep, only: Container[str] | None) -> list[Run]:
    """The runs of these names, and those that they need; all where `only` is None."""
    wanted: set[str] = set()
    for run in reversed(plan.runs):
        if only is None or run.name in only or run.name in wanted:
            wanted |= {run.name, *run.needs}
    return [run for run in plan.runs if run.name in wanted]


def check_run(run: Run, needed: Mapping[str, Any]) -> Any:
    """Check a run as far as its command can without images; what the config.yaml of a search or a retraining will hold.

    Args:
        run: the run.
        needed: what this function returned for the runs that it needs, by name.

    Raises:
        UserError: an option, or how options go together, is wrong.
    """
    item = COMMANDS[run.command]
    values: dict[str, Any] = {}
    for dotted, value in run.options.items():
        name, *keys = dotted.split(".")
        values[name] = set_entry(values.get(name), keys, value)
    if item.config is None:
        check_complete(item.options, check_options(item.options, values, run.command), run.command)
        return None
    config = make_request(item.options, values, run.command)
    if run.command in CHECKS:
        trial = replace(config, dry_run=True)
        if run.command == "retrain":
            trial = hand_over(trial, needed)
        result = load(CHECKS[run.command])(trial, [], estimate=False)
        return result["would_search"] if run.command == "search" else result["would_retrain"][0]
    if run.command == "evaluate":
        check_evaluation(config, needed.values())
    return None


def hand_over(request: Any, needed: Mapping[str, Any]) -> Any:
    """A retraining with what its search hands over to it, also one that an earlier run of the sweep is to make."""
    from nas_osr.retrain.taking_over import fill_open, read_origin

    if "{out}/" in str(request.init):
        request = replace(request, init=None)  # its weights are not there yet
    for name in re.findall(r"\{out\}/([^/]*)", str(request.architecture)):
        return replace(fill_open(request, needed[name] or {}, name), architecture=UNKNOWN_YET)
    where, searched = read_origin(request)
    return fill_open(request, searched, where)


def check_evaluation(config: Any, needed: Iterable[Any]) -> None:
    """UserError unless the retrainings that an evaluation needs can feed its rules and meet its unknown source."""
    from nas_osr.data.protocols import with_unknown
    from nas_osr.objectives import objective_class
    from nas_osr.retrain.retrain_request import RetrainRequest
    from nas_osr.scoring import check_rule, list_rules, make_rule, rule_class

    names = [] if config.rule is None else list_rules(config.rule)
    for name in names:
        make_rule(name, config.rule_config)
    for record in needed:
        if record is not None and "splits" in record:
            for name in names:
                side_task = (record.get("objective_config") or {}).get("side_task", "none")
                check_rule(rule_class(name), objective_class(record["objective"]), side_task)
            if config.unknown is not None:
                retraining = RetrainRequest(**record)
                protocol = retraining.protocol_of(int(record["splits"]))
                with_unknown(protocol, config.unknown, retraining.data_folder)


def list_shipped(as_json: bool) -> None:
    """Print what ships: name, number of runs, what it measures."""
    plans = {name: (path, read_sweep(name, option_names)) for name, path in shipped().items()}
    if as_json:
        show_json(
            {name: {"about": plan.about, "runs": len(plan.runs), "file": path} for name, (path, plan) in plans.items()}
        )
        return
    show_table([["name", "runs", "about"], *([name, str(len(p.runs)), p.about] for name, (_, p) in plans.items())])
    print(f"files in {next(iter(plans.values()))[0].parent}")


def show_plan(runs: Sequence[Run], folder: SweepFolder, as_json: bool) -> None:
    """Print the command of every run, and which have finished."""
    lines = {run.name: shlex.join(["nas-osr", *folder.arguments(run)]) for run in runs}
    finished = {run.name for run in runs if folder.finished(run)}
    if as_json:
        show_json({"would_run": {name: {"command": lines[name], "finished": name in finished} for name in lines}})
    else:
        print("\n".join(f"{'# finished: ' if name in finished else ''}{line}" for name, line in lines.items()))


def show_outcomes(plan: Sweep, folder: SweepFolder, outcomes: Mapping[str, Outcome], as_json: bool) -> None:
    """Print what the retrainings measured, what failed and why, and how many runs ended how."""
    from nas_osr.cli.compare import show_rows
    from nas_osr.retrain.comparison import find_rows

    trained = [folder.path / run.name for run in plan.runs if run.command == "retrain" and folder.finished(run)]
    rows = find_rows(trained) if trained else []
    if as_json:
        runs = {name: {"status": item.status, "error": item.error} for name, item in outcomes.items()}
        show_json({"out": folder.path, "runs": runs, "compare": [asdict(row) for row in rows]})
        return
    if rows:
        show_rows(rows)
        print()
    for name, outcome in outcomes.items():
        if outcome.error:
            print(f"{name}: {outcome.status}: {outcome.error}")
    counts = Counter(item.status for item in outcomes.values())
    before = sum(item.skipped for item in outcomes.values())
    parts = [f"{counts[status]} {status}" for status in ("finished", "failed", "blocked") if counts[status]]
    if before:
        parts[0] += f" ({before} before)"
    print(f"{len(outcomes)} {'run' if len(outcomes) == 1 else 'runs'}: {', '.join(parts)}; everything in {folder.path}")
