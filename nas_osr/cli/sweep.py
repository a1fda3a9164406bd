"""`nas-osr sweep`: many runs from one file, as processes of this machine, resumable."""

from __future__ import annotations

import fnmatch
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any

from nas_osr.cli.main import COMMANDS, load, main
from nas_osr.cli.options import list_options, parse_options
from nas_osr.cli.show import show_json, show_table
from nas_osr.configuration import check_not_negative, check_positive
from nas_osr.errors import UserError
from nas_osr.sweeps.local import LocalExecutor, share_cores
from nas_osr.sweeps.run import Outcome, run_sweep
from nas_osr.sweeps.sweep_file import Run, Sweep, read_sweep, shipped, texts
from nas_osr.sweeps.sweep_folder import SweepFolder, list_arguments

EXIT_FAILED = 1
# What a command does with a configuration; with `dry_run` it checks all of it.
CHECKS = {"search": "nas_osr.strategies.run:run_search", "retrain": "nas_osr.retrain.run:run_retrain"}
UNKNOWN_YET = "random:0"  # stands for an architecture that an earlier run of the sweep is to find


@dataclass
class SweepConfig:
    """Run many runs from one file: those that have finished are skipped, so that the same command resumes a sweep.

    Every run's options are checked before the first one starts. A run that fails does not stop the others; the exit
    code is then 1.

    Args:
        file: a sweep file, or the name of a shipped one (see --list).
        out: folder of the sweep; runs/sweeps/NAME when not given.
        jobs: runs at a time, each with its share of the processor's cores.
        retries: how often a run whose process has died is started again; it goes on from its last checkpoint. A run
            that ends with exit code 2, a mistake, is not.
        only: pattern of the runs to make, such as "cac-*"; what they need is made as well.
        set: options that win over the file's in all runs, for example --set.epochs 1.
        list: list the shipped sweep files and stop.
        dry_run: check everything, print the commands and stop.
        json: print the result as one JSON object.
        quiet: print no progress.
    """

    file: str | None = None
    out: str | None = None
    jobs: int = 1
    retries: int = 0
    only: str | None = None
    set: dict[str, Any] = field(default_factory=dict)
    list: bool = False
    dry_run: bool = False
    json: bool = False
    quiet: bool = False


def sweep(config: SweepConfig, command: Sequence[str]) -> None:
    """Run a sweep and print how its runs ended and what they measured; exit code 1 when one failed."""
    if config.list:
        list_shipped(config.json)
        return
    if config.file is None:
        raise UserError("sweep: name a sweep file, or a shipped one: nas-osr sweep --list shows them")
    check_positive(config, "jobs")
    check_not_negative(config, "retries")
    plan = read_sweep(config.file, option_names, flatten(config.set))
    only = None
    if config.only is not None:
        only = {run.name for run in plan.runs if fnmatch.fnmatchcase(run.name, config.only)}
        if not only:
            raise UserError(f"--only {config.only}: no run has such a name; the first is {plan.runs[0].name}")
    check_sweep(plan)
    folder = SweepFolder(config.out or f"runs/sweeps/{plan.name}", option_names)
    folder.check_unchanged(plan.runs)
    if config.dry_run:
        show_plan(plan, folder, config.json)
        return

    def report(line: str) -> None:
        if not config.quiet:
            print(line, file=sys.stderr, flush=True)

    try:
        with folder:
            assert folder.lock is not None
            executor = LocalExecutor(config.jobs, [folder.lock], report)
            share, retries = share_cores(config.jobs), config.retries
            outcomes = run_sweep(plan, folder, executor, run_command, share, retries=retries, only=only, report=report)
    except KeyboardInterrupt as interruption:
        raise type(interruption)(f"go on with: {shlex.join(command)}") from None
    show_outcomes(plan, folder, outcomes, config.json)
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
    item = COMMANDS[command]
    return {option.name for option in list_options(load(item.config or item.function))}


def flatten(options: Mapping[str, Any], head: str = "") -> dict[str, Any]:
    """Nested mappings as dotted names: what `--set.objective_config.alpha 3` parses to, as it was written."""
    flat: dict[str, Any] = {}
    for name, value in options.items():
        flat |= flatten(value, f"{head}{name}.") if isinstance(value, dict) else {f"{head}{name}": value}
    return flat


def check_sweep(plan: Sweep) -> None:
    """Check the options of every run as its command will, without running any. Raises UserError, naming the run."""
    configs: dict[str, Any] = {}
    for run in plan.runs:
        try:
            configs[run.name] = check_run(run, [configs[name] for name in run.needs])
        except UserError as error:
            raise UserError(f"{run.where}: run {run.name}: {error}") from None


def check_run(run: Run, needed: Sequence[Any]) -> Any:
    """The configuration of a run, checked as far as its command can without images; None for one without.

    Args:
        run: the run.
        needed: the configurations of the runs that it needs.

    Raises:
        UserError: an option, or how options go together, is wrong.
    """
    item = COMMANDS[run.command]
    options = load(item.config or item.function)
    values = parse_options(options, list_arguments(run.options, "{out}"), run.command, item.positionals)
    assert values is not None, "help and print_config are not for a sweep file"
    if item.config is None:
        return None
    config = options(**values)
    if run.command in CHECKS:
        trial = replace(config, dry_run=True)
        if any("{out}" in text for text in texts(getattr(config, "architecture", None))):
            trial = replace(trial, architecture=UNKNOWN_YET)
        load(CHECKS[run.command])(trial, [], estimate=False)
    elif run.command == "evaluate":
        check_evaluation(config, needed)
    return config


def check_evaluation(config: Any, needed: Sequence[Any]) -> None:
    """UserError unless the retrainings that an evaluation needs can feed its rules and meet its unknown source."""
    from nas_osr.data.protocols import with_unknown
    from nas_osr.objectives import objective_class
    from nas_osr.scoring import check_rule, list_rules, make_rule, rule_class

    names = [] if config.rule is None else list_rules(config.rule)
    for name in names:
        make_rule(name, config.rule_config)
    for retraining in needed:
        if {"objective", "splits"} <= {item.name for item in fields(retraining)}:
            for name in names:
                check_rule(rule_class(name), objective_class(retraining.objective))
            if config.unknown is not None:
                with_unknown(retraining.protocol_of(0), config.unknown)


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


def show_plan(plan: Sweep, folder: SweepFolder, as_json: bool) -> None:
    """Print the command of every run, and which have finished."""
    lines = {run.name: shlex.join(["nas-osr", *folder.arguments(run)]) for run in plan.runs}
    finished = {run.name for run in plan.runs if folder.finished(run)}
    if as_json:
        show_json({"would_run": {name: {"command": lines[name], "finished": name in finished} for name in lines}})
        return
    for name, line in lines.items():
        print(f"{'# finished: ' if name in finished else ''}{line}")


def show_outcomes(plan: Sweep, folder: SweepFolder, outcomes: Mapping[str, Outcome], as_json: bool) -> None:
    """Print what the retrainings measured, what failed and why, and how many runs ended how."""
    from nas_osr.cli.compare import show_rows
    from nas_osr.retrain.comparison import find_rows, row_record

    trained = [folder.path / run.name for run in plan.runs if run.command == "retrain" and folder.finished(run)]
    rows = find_rows(trained) if trained else []
    if as_json:
        runs = {name: {"status": item.status, "error": item.error} for name, item in outcomes.items()}
        show_json({"out": folder.path, "runs": runs, "compare": [row_record(row) for row in rows]})
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
