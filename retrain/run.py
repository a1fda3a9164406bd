"""A whole retraining: every split and seed into its own complete run folder, and a summary over them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, replace
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric

from nas_osr.configuration import parse_range
from nas_osr.cost.batch_size import begun_config, pick_batch, scaled_rate
from nas_osr.cost.whole_run import check_fits
from nas_osr.data.dataset import OpenSetData
from nas_osr.data.protocols import REHEARSAL
from nas_osr.errors import UserError
from nas_osr.evaluation.judging import warn_of_few_images
from nas_osr.files.paths import user_path
from nas_osr.metrics.resampling import mean_and_spread
from nas_osr.objectives import makes_views
from nas_osr.option_docs import list_defaults
from nas_osr.plans import LearningData
from nas_osr.ranks.first import FirstRank, check_same, opened_by_first
from nas_osr.ranks.place import check_divided
from nas_osr.requests import name_former_classes
from nas_osr.retrain.build import save_architecture
from nas_osr.retrain.evaluate import evaluate_test, fit_rules, write_evaluation
from nas_osr.retrain.evaluated import check_result
from nas_osr.retrain.model import Model, about_model, inputs_of, write_model
from nas_osr.retrain.retrain_cost import retrain_cost
from nas_osr.retrain.retrain_plan import Part, RetrainPlan, plan_retrain
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.runs.lengthening import lengthen
from nas_osr.runs.loggers import Logger, Loggers
from nas_osr.runs.names import MODEL_FOLDER
from nas_osr.runs.progress import ProgressReporter, tell
from nas_osr.runs.recorder import RunRecorder, check_equal_options
from nas_osr.runs.run_folder import RunFolder
from nas_osr.seeds import derive_seed
from nas_osr.training.determinism import deterministic_algorithms
from nas_osr.training.recipes import Recipe


def run_retrain(request: RetrainRequest, command: list[str], estimate: bool = True) -> dict[str, Any]:
    """Retrain as asked and leave complete run folders and summary.json in `request.out`.

    `command` is for the provenance; `estimate` is whether a `dry_run` says what the retraining would cost, too.

    Returns:
        out, metrics (mean, std and n of each over the parts), parts (metrics of each); with `dry_run` what would run.

    Raises:
        UserError: anything in the request is wrong, missing or in use, or does not fit into the device's memory;
            nothing is written then.
    """
    plan = plan_retrain(request)
    if request.batch_size == "auto":
        plan = plan_retrain(trained_with_batch(request, plan))
    if request.dry_run:
        plan.output.check()
        machine = plan.parts[0].training.machine
        expected = {"estimate": machine.estimate(partial(retrain_cost, plan.parts))} if estimate else {}
        return {"would_retrain": [part.recorded for part in plan.parts], **expected}
    return retrain_as_planned(plan, command)


def trained_with_batch(request: RetrainRequest, plan: RetrainPlan) -> RetrainRequest:
    """The request with the batch that its run began with, or that fits here, and a learning rate to match."""
    begun, training = begun_config(user_path(request.out), plan.output.resume), plan.parts[0].training
    recipe, usual = training.schedule.recipe, training.schedule.batch_size
    if begun:
        batch = begun.get("batch_size", usual)
        rate = begun.get("recipe_config", {}).get("learning_rate", recipe.learning_rate)
    else:
        batch = pick_batch(usual, training.machine.open(ranks=False), partial(retrain_cost, plan.parts))
        rate = recipe.learning_rate
        if not recipe.reference_batch:  # with which a recipe scales its rate itself
            rate = scaled_rate(rate, recipe.optimizer, batch, usual)
    return replace(request, batch_size=batch, recipe_config={**request.recipe_config, "learning_rate": rate})


def retrain_as_planned(plan: RetrainPlan, command: list[str]) -> dict[str, Any]:
    """Carry out a plan; see `run_retrain`."""
    first, cost = plan.parts[0], partial(retrain_cost, plan.parts)
    fabric = first.training.machine.open()
    # what can be wrong with the first part shows before anything is written
    with torch.random.fork_rng():
        first.training.build()
    if not plan.output.quiet and fabric.is_global_zero:
        tell(first.data.reading())
    opened = {first.folder: first.data.load()}
    check_equal_options(fabric, plan.recorded)
    with (
        deterministic_algorithms(first.training.machine.deterministic),
        opened_by_first(fabric, plan.output.create) as outer,
    ):
        check_fits(cost, fabric)
        outer.call(lambda folder: begin(folder, plan, command))
        results = [run_part(plan, part, opened.pop(part.folder, None), fabric, outer, command) for part in plan.parts]
        summary = {
            "out": plan.output.out,
            "metrics": mean_and_spread([result["metrics"] for result in results]),
            "parts": {part.folder: result["metrics"] for part, result in zip(plan.parts, results, strict=True)},
        }
        outer.call(lambda folder: end(folder, summary))
    return summary


def begin(outer: RunFolder, plan: RetrainPlan, command: list[str]) -> None:
    """Begin the retraining in its folder, or go on with one that is asked for more splits or epochs. UserError."""
    modernise(outer)
    finished = outer.finished
    if not (plan.output.resume and (finished or outer.resumed)):
        outer.provenance(command, plan.recorded, None, None)
        return
    begun = outer.read_config().get("splits")
    if set(parse_range("splits", begun)) - set(parse_range("splits", plan.recorded["splits"])):
        raise UserError(f"{outer.path}: was begun with --splits {begun}: ask for these and for more, or --overwrite")
    lengthen(outer, plan.recorded, plan.parts[0].training.bound, ("splits",))
    if finished:
        outer.extend(plan.recorded, ("splits",))
    else:
        outer.provenance(command, plan.recorded, None, None)


def modernise(run: RunFolder) -> None:
    """Let a retraining that an earlier version began go on: complete its config.yaml.

    It gets the names of its classes, and the settings of recipes that there were not, which stand for what was done;
    and no augmentation where an objective was not given it.
    """
    if not (run.resumed or run.finished):
        return
    before = run.read_config()
    config = name_former_classes(RetrainRequest, before, str(run.path / "config.yaml")) if run.resumed else dict(before)
    if isinstance(before.get("recipe_config"), dict):
        settings = {name: value for name, value in list_defaults(Recipe).items() if value is not MISSING}
        config["recipe_config"] = {**settings, **before["recipe_config"]}
        if makes_views(before.get("objective")):
            config["recipe_config"]["augmentation"] = "none"
    if config != before:
        run.write_yaml("config.yaml", config)


def read_part_result(run: RunFolder) -> dict[str, Any] | None:
    """What a finished part's metrics.json holds; None when the part is not finished. UserError when it is broken."""
    return check_result(run.read_json("metrics.json"), run.path / "metrics.json") if run.finished else None


def end(outer: RunFolder, summary: dict[str, Any]) -> None:
    """Write summary.json and the end of the retraining."""
    outer.write_json("summary.json", {name: value for name, value in summary.items() if name != "out"})
    if not outer.finished:
        outer.finish()


def run_part(
    plan: RetrainPlan,
    part: Part,
    opened: LearningData | None,
    fabric: Fabric,
    outer: FirstRank[RunFolder],
    command: list[str],
) -> dict[str, Any]:
    """Train and evaluate one part in its folder; what its metrics.json holds. A finished part is only read.

    `opened` are the part's images where they have been read already.
    """
    training, schedule, output = part.training, part.training.schedule, plan.output
    outer.call(RunFolder.read_provenance)  # UserError: a folder that was removed meanwhile is not made again
    with (
        opened_by_first(
            fabric, lambda: RunFolder.create(outer.value.path / part.folder, resume=output.resume)
        ) as folder,
        Loggers(output.logger) as loggers,
    ):
        folder.call(modernise)
        folder.call(lambda run: lengthen(run, part.recorded, training.bound))
        done = folder.call(read_part_result)
        if done is not None:
            return done
        if opened is None and not output.quiet:
            folder.call(lambda _: tell(f"{part.folder}  {part.data.reading()}"))
        data = opened or part.data.load()
        warn_of_few_images(training.objective.make_rule(), len(data.known.validation))
        check_divided(training.objective.name, True, min(schedule.batch_size, len(data.known.train)))
        check_same(fabric, "training images", data.fingerprint)
        about = training.machine.conditions(fabric)
        folder.call(lambda run: run.provenance(command, part.recorded, part.seed, data.fingerprint, **about))
        folder.call(training.initial.record)
        folder.call(lambda run: save_architecture(training.network, run))
        started = time.perf_counter()
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(part.seed, "weights"))
            learner = training.build(data.outliers)
            folder.call(lambda run: training.initial.say(run, learner.objective))
            later = outer.call(lambda folder: epochs_after(plan, part, folder))
            reporter = ProgressReporter(schedule.epochs, output.quiet, part.folder, later=later)
            folder.call(lambda run: reporter.begin(about))
            minutes = output.checkpoint_minutes
            with RunRecorder(folder, reporter, output.resume, minutes, loggers) as recorder:
                trained = training.train(learner, data.known, fabric, recorder, part.seed)
        trained.eval()
        result = folder.call(lambda run: evaluate_part(run, plan, part, trained, data.known, fabric.device, started))
        folder.call(lambda run: log_results(loggers.of(run, len(run.read_history())), result))
        return result


def log_results(loggers: Sequence[Logger], result: Mapping[str, Any]) -> None:
    """Give loggers the metrics of an evaluation that are defined."""
    metrics = {name: value for name, value in result["metrics"].items() if value is not None}
    for logger in loggers:
        logger.results(metrics)


def epochs_after(plan: RetrainPlan, part: Part, outer: RunFolder) -> int:
    """How many epochs the splits and seeds after this one have left to train."""
    parts = plan.parts[list(plan.parts).index(part) + 1 :]
    waiting = [other for other in parts if not RunFolder(outer.path / other.folder).finished]
    return sum(other.training.schedule.epochs for other in waiting)


def evaluate_part(
    run: RunFolder,
    plan: RetrainPlan,
    part: Part,
    trained: Any,
    data: OpenSetData,
    device: torch.device,
    started: float,
) -> dict[str, Any]:
    """Evaluate a part's network, which is in eval mode, and write the end of its run; what metrics.json holds.

    `started` is when its training began, by `time.perf_counter`.
    """
    if not plan.output.quiet:
        images = "training images that play the test" if data.protocol.family == REHEARSAL else "the test images"
        tell(f"{part.folder}  evaluating on {images}")
    rule, learner = part.training.objective.make_rule(), trained.module  # in float32, as the model will be used
    fit_rules([rule], learner, data, device)
    [judged] = evaluate_test([rule], learner, data, device)
    network, objective = part.training.network, part.training.objective
    result = write_evaluation(run, rule, judged, learner, network, data, plan.bootstrap)
    inputs = inputs_of(data.protocol)
    about = about_model(result, data)
    write_model(run.path / MODEL_FOLDER, Model(network, objective, inputs, learner, rule, None, about))
    run.append_timing({"evaluated": True, "seconds_in_all": time.perf_counter() - started})
    run.finish()
    return result
