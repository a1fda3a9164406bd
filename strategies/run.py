"""A whole search: plan it, open known data, run the strategy, write the run folder. No strategy is named here."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from nas_osr.configuration import rename_former
from nas_osr.cost.batch_size import begun_config, pick_batch, scaled_rate
from nas_osr.cost.whole_run import check_fits
from nas_osr.errors import UserError
from nas_osr.evaluation.judging import warn_of_few_images, warn_of_short_classes
from nas_osr.files.locks import FolderInUse
from nas_osr.files.paths import user_path
from nas_osr.objectives import makes_views
from nas_osr.plain import plain
from nas_osr.ranks.first import check_same, opened_by_first
from nas_osr.requests import name_former_classes
from nas_osr.runs.lengthening import lengthen
from nas_osr.runs.loggers import Logger, Loggers
from nas_osr.runs.names import LATENCY_FILE
from nas_osr.runs.progress import ProgressReporter, tell
from nas_osr.runs.recorder import RunRecorder, check_equal_options
from nas_osr.runs.resumption import check_same_config
from nas_osr.runs.run_folder import RunFolder
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.architectures.export import export_architecture, render
from nas_osr.search_spaces.sizes import describe_space, describe_supernet, sizes_of
from nas_osr.strategies import make_strategy
from nas_osr.strategies.base import SearchPlan, SearchResult
from nas_osr.strategies.latency import compare_latency, find_latencies, found_latency
from nas_osr.strategies.search_plan import plan_search
from nas_osr.strategies.search_request import SearchRequest
from nas_osr.strategies.trials.front import read_front, write_front
from nas_osr.strategies.trials.sharing import help_search
from nas_osr.training.determinism import deterministic_algorithms
from nas_osr.training.monitors import all_warnings, stop_reason

LESS_MEMORY_OF_SEARCH = "--batch_size, --channels, --layers or --objective_config.decoder_channels"
PICTURES = ["graphml", "gv", "svg"]


def run_search(request: SearchRequest, command: list[str], estimate: bool = True) -> dict[str, Any]:
    """Search as requested and leave a complete run folder in `request.out`.

    `command` is for the provenance; `estimate` is whether a `dry_run` says what the search would cost, too.

    Returns:
        What was found: out, f1, epoch (of a strategy that tries architectures: the trial), phase ("search" or
        "trial"), branches (choices and joins where there are any), seconds, front (of trials: those that none beats in
        both score and cost, with their figures and files), warnings by kind, and stopped, the reason why a stop
        rule ended the search, or None; with `dry_run` what would run.

    Raises:
        UserError: anything in the request is wrong, missing or in use, or does not fit into the device's memory;
            nothing is written then.
    """
    plan = plan_search(request)
    if request.batch_size == "auto":
        plan = plan_search(searched_with_batch(request, plan))
    if request.dry_run:
        plan.output.check()
        cost = {"estimate": plan.machine.estimate(partial(plan.strategy.cost, plan))} if estimate else {}
        return {"would_search": dict(plan.recorded), "protocol": plan.protocol.to_dict(), **cost}
    while plan.backend == "shared":
        try:
            return search_as_planned(plan, command)
        except FolderInUse:
            help_search(plan)
    return search_as_planned(plan, command)


def searched_with_batch(request: SearchRequest, plan: SearchPlan) -> SearchRequest:
    """The request with the batch that its run began with, or that fits here, and learning rates to match."""
    begun = rename_former(SearchRequest, begun_config(user_path(request.out), plan.output.resume))
    rates = {"weight_lr": request.weight_lr}
    if hasattr(plan.strategy.config, "architecture_lr"):
        rates["architecture_lr"] = plan.strategy.config.architecture_lr
    if begun:
        batch = begun.get("batch_size", plan.weights.batch_size)
        known = {**begun, **begun.get("strategy_config", {})}
        rates = {name: known.get(name, rate) for name, rate in rates.items()}
    else:
        usual = plan.weights.batch_size
        batch = pick_batch(usual, plan.machine.open(ranks=False), partial(plan.strategy.cost, plan))
        rates = {name: scaled_rate(rate, "adam", batch, usual) for name, rate in rates.items()}
    weight_lr = rates.pop("weight_lr")
    strategy_config = {**request.strategy_config, **rates}
    return replace(request, batch_size=batch, weight_lr=weight_lr, strategy_config=strategy_config)


def search_as_planned(plan: SearchPlan, command: list[str]) -> dict[str, Any]:
    """Carry out a plan; see `run_search`."""
    fabric = plan.machine.open()
    if fabric.world_size == 1 and plan.backend != "shared":
        plan.output.create().close()  # one that cannot be had is told before images are read
    if not plan.output.quiet and fabric.is_global_zero:
        tell(plan.data.reading())
    data = plan.data.load()
    plan.strategy.check_data(plan, data)
    rule, images = plan.objective.make_rule(), data.known.validation
    warn_of_few_images(rule, len(images))
    warn_of_short_classes(rule, images.labels, data.known.protocol.class_names)
    check_equal_options(fabric, plan.recorded)
    check_same(fabric, "training images", data.fingerprint)
    with (
        deterministic_algorithms(plan.machine.deterministic),
        opened_by_first(fabric, plan.output.create) as folder,
    ):
        folder.call(lambda run: lengthen(run, plan.recorded, plan.strategy.bound(plan)))
        done = folder.call(lambda run: read_finished(run, plan))
        if done is not None:
            return done
        check_fits(partial(plan.strategy.cost, plan.of_rank(fabric.world_size)), fabric, LESS_MEMORY_OF_SEARCH)
        latencies = folder.call(lambda run: find_latencies(run, plan, fabric.device))
        plan = replace(plan, budget=replace(plan.budget, table=latencies))
        about = plan.machine.conditions(fabric)
        folder.call(modernise_config)
        folder.call(lambda run: run.provenance(command, plan.recorded, plan.seed, data.fingerprint, **about))
        if latencies is not None:
            folder.call(lambda run: run.write_json(LATENCY_FILE, latencies.to_dict()))
        if not plan.output.quiet:
            parts = getattr(plan.strategy.config, "partial_channels", 1)
            sizes = describe_space(plan.space), describe_supernet(plan.space, plan.protocol.image_shape, parts)
            folder.call(lambda run: tell(f"space: {'; '.join(sizes)}"))
        reporter = ProgressReporter(plan.strategy.records(plan), quiet=plan.output.quiet, in_turn=plan.in_turn)
        minutes = plan.output.checkpoint_minutes
        folder.call(lambda run: reporter.begin(about))
        with Loggers(plan.output.logger) as loggers:
            with RunRecorder(folder, reporter, plan.output.resume, minutes, loggers) as recorder:
                result = plan.strategy.search(plan, data, fabric, recorder)
            if not plan.budget.fits(result.architecture):
                raise UserError(f"strategy {plan.recorded['strategy']} does not keep to the limits on networks")
            folder.call(lambda run: compare_latency(run, result.architecture, plan, fabric.device))
            found = folder.call(lambda run: write_result(run, result, plan))
            folder.call(lambda run: log_picture(loggers.of(run, len(run.read_history())), run, result))
        return found


def modernise_config(run: RunFolder) -> None:
    """Let a search that an earlier version began go on: give its config.yaml the names of its classes, and the
    strategy's options in one place; younger ones are as their classes have them, whatever presets say today."""
    if not run.resumed:
        return
    config = modern_config(run)
    if config != run.read_config():
        run.write_yaml("config.yaml", config)


def modern_config(run: RunFolder) -> dict[str, Any]:
    """The run's config.yaml in the present names."""
    config = rename_former(SearchRequest, run.read_config())
    if "image_size" not in config:
        config = name_former_classes(SearchRequest, config, str(run.path / "config.yaml"))
    if makes_views(config.get("objective")):  # whatever was asked for
        config["augmentation"] = "none"
    strategy = make_strategy(config["strategy"], config.get("strategy_config", {}), preset="")
    config["strategy_config"] = asdict(strategy.config)
    return {"jobs": SearchRequest.jobs, "backend": SearchRequest.backend, **config}


def log_picture(loggers: Sequence[Logger], run: RunFolder, result: SearchResult) -> None:
    """Give loggers the picture of what was found."""
    architecture = Architecture.load(run.path / "architecture.json")
    picture = render(architecture, result.weights, "png", sizes_of(architecture))
    with Image.open(io.BytesIO(picture)) as opened:  # noqa: TID251 - of the program that has just drawn it
        image = np.asarray(opened.convert("RGB"))
    for logger in loggers:
        logger.picture(image, result.epoch)


def read_finished(run: RunFolder, plan: SearchPlan) -> dict[str, Any] | None:
    """What a finished search found, where one is gone on with; UserError when it was another than is asked for."""
    if not (plan.output.resume and run.finished):
        return None
    check_same_config(run.path, modern_config(run), plain(plan.recorded, "config"))
    return read_result(run)


def write_result(run: RunFolder, result: SearchResult, plan: SearchPlan) -> dict[str, Any]:
    """Write the architecture, its pictures and the end of the run; what `read_result` returns."""
    record = run.read_history()[result.epoch]
    architecture = with_origin(plan, result.architecture, record, result.score)
    architecture.save(run.path / "architecture.json")
    export_architecture(architecture, result.weights, PICTURES, run.path, sizes_of(architecture))
    write_front(run, plan.space, plan.strategy.criterion, plan.strategy.cost_shown, partial(with_origin, plan))
    run.finish()
    return read_result(run)


def with_origin(plan: SearchPlan, architecture: Architecture, record: Mapping[str, Any], score: float) -> Architecture:
    """An architecture that says where it comes from: the search, its record in the history, and the score of that."""
    criterion = plan.strategy.criterion
    picked = {} if criterion == "f1" else {"criterion": criterion, "score": score}
    latency = found_latency(architecture, plan.budget)
    found = {**plan.found, **latency, "epoch": record["epoch"], "F1": record["f1"], **picked}
    return replace(architecture, found=found)


def read_result(run: RunFolder) -> dict[str, Any]:
    """What a finished search found, from its folder."""
    architecture = Architecture.load(run.path / "architecture.json")
    found, history = architecture.found, run.read_history()
    seconds = [record.get("seconds") for record in run.read_timing()]
    phases = [record.get("phase") for record in history if record.get("epoch") == found.get("epoch")]
    if not ({"F1", "epoch"} <= found.keys() and phases and all(isinstance(part, int | float) for part in seconds)):
        raise UserError(f"{run.path}: architecture.json, history.jsonl or timing.jsonl is not what a search leaves")
    return {
        "out": str(run.path),
        "f1": found["F1"],
        "epoch": found["epoch"],
        "phase": phases[0],
        **architecture.describe(),
        "seconds": sum(seconds),
        "front": read_front(run),
        "warnings": all_warnings(history),
        "stopped": stop_reason(history),
    }
