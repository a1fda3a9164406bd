"""Pictures in, a model out: divide, train, set the threshold, evaluate, within a budget of time; a search on request.

The folder of the result is a run folder:

    model/           the model
    fit-search/      the run that found the architecture, where one was searched
    fit-training/    the run that trained the model, with its evaluation
    choice.json      what was chosen to be searched and trained
    summary.json     what was reached
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import torch

from nas_osr.deploy.fit_budget import (
    SearchChoice,
    TrainingChoice,
    choose_search,
    choose_training,
    first_choice,
    fit_options,
    recorded_choice,
    say,
    search_request,
    training_request,
    warn_of_few_pictures,
)
from nas_osr.deploy.fit_record import CHOICE, SUMMARY, read_choice, read_summary, spent_before
from nas_osr.deploy.fit_request import FitRequest
from nas_osr.plans import DataPlan, LearningData
from nas_osr.retrain.model import write_model
from nas_osr.retrain.model_reading import open_model
from nas_osr.retrain.retrain_plan import FOUND, Part, plan_retrain
from nas_osr.retrain.run import retrain_as_planned
from nas_osr.runs.names import FIT_SEARCH, FIT_TRAINING, MODEL_FOLDER
from nas_osr.runs.run_folder import RunFolder
from nas_osr.strategies.run import search_as_planned
from nas_osr.strategies.search_plan import plan_search


@dataclass(frozen=True)
class Clock:
    """A budget of time that began at `started`, by `time.perf_counter`, and has so many seconds in all."""

    started: float
    budget: float

    @property
    def spent(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self.started

    def left(self, reserved: float) -> float:
        """Seconds for search and training, if `reserved` ones are kept for what follows."""
        return self.budget - self.spent - reserved


def run_fit(request: FitRequest, command: list[str], started: float | None = None) -> dict[str, Any]:
    """Make a model of a folder of pictures, and leave it with all that led to it in `request.out`.

    Args:
        command: for the provenance.
        started: when the budget began, by `time.perf_counter`; now when not given.

    Returns:
        out, model (its folder), known (class names), training_images by class, seconds, search (what was searched, or
        None), training (what was chosen to be trained), epochs (how many it had), metrics, intervals and test_images;
        with `dry_run` what would be done.

    Raises:
        UserError: something in the request is wrong, missing or in use, or the budget is too small.
    """
    clock = Clock(time.perf_counter() if started is None else started, 60 * request.minutes)
    resume = request.resume == "auto"
    # what its folder tells of the pictures
    plan = plan_retrain(training_request(request, first_choice(request, 10**9)))
    part = plan.parts[0]
    request = replace(request, **{name: part.recorded[name] for name in FOUND})
    if request.dry_run:
        RunFolder.check(request.out, overwrite=request.overwrite, resume=resume)
        search, training = choose(request, part, clock, 0.0)
        return {"would_fit": {**fit_options(request), "search": search, "training": training}, "seconds": clock.budget}
    with RunFolder.create(request.out, overwrite=request.overwrite, resume=resume) as run:
        if resume and run.finished:
            run.extend(request.recorded(), ())  # UserError: it is the result of something else
            return read_summary(run)
        reading = time.perf_counter()
        data = part.data.load()
        reading = time.perf_counter() - reading
        counts = count_by_class(data)
        warn_of_few_pictures(counts)
        part = replace(part, data=keep(part.data, data))
        reserved = evaluation_seconds(data, reading, clock.budget)
        if run.resumed and (run.path / CHOICE).exists():
            choice = read_choice(run)
            clock = Clock(time.perf_counter() - spent_before(run, part.folder, choice), clock.budget)
        else:
            search, training = choose(request, part, clock, reserved)
            choice = {"search": search, "training": training, "seconds": clock.spent}
        run.provenance(command, request.recorded(), request.seed, data.fingerprint)
        run.write_json(CHOICE, choice)
        choice = search_if_chosen(run, request, part, choice, clock, reserved, command)
        result = train(run, request, part, choice, time.monotonic() + clock.left(reserved), command)
        summary = {
            **result,
            "training_images": counts,
            "seconds": clock.spent,
            "search": choice["search"],
            "training": choice["training"],
        }
        run.write_json(SUMMARY, summary)
        run.finish()
        return summary


def choose(request: FitRequest, part: Part, clock: Clock, reserved: float) -> tuple[Any, Any]:
    """What is searched and trained, as plain values; no training yet where a search comes first. UserError."""
    training = choose_training(request, part, clock.left(reserved))
    search = choose_search(request, part, training, clock.left(reserved))
    say_choice(request, search, training)
    return recorded_choice(search), recorded_choice(None if search else training)


def say_choice(request: FitRequest, search: SearchChoice | None, training: TrainingChoice) -> None:
    """What was chosen, in a line."""
    if search is not None:
        say(request, f"search: {search.epochs} epochs, about {search.seconds / 60:.2g} minutes")
        return
    what = request.network or f"width {training.channels}"
    seconds = training.epochs * training.epoch_seconds
    say(
        request,
        f"training: {what}, {training.epochs} epochs in batches of {training.batch_size}, about "
        f"{seconds / 60:.2g} of the {request.minutes:g} minutes",
    )


def search_if_chosen(
    run: RunFolder,
    request: FitRequest,
    part: Part,
    choice: dict[str, Any],
    clock: Clock,
    reserved: float,
    command: list[str],
) -> dict[str, Any]:
    """The choice with what is trained in it, after the search that it names, if any. UserError."""
    if choice["training"] is not None:
        return choice
    chosen, out = SearchChoice(**choice["search"]), str(run.path / FIT_SEARCH)
    plan = plan_search(search_request(request, chosen, out=out, resume="auto"))
    search_as_planned(replace(plan, data=part.data), command)
    training = choose_training(request, part, clock.left(reserved), out, begun=True)
    say_choice(request, None, training)
    choice = {**choice, "training": recorded_choice(training)}
    run.write_json(CHOICE, choice)
    return choice


def train(
    run: RunFolder, request: FitRequest, part: Part, choice: dict[str, Any], ends: float, command: list[str]
) -> dict[str, Any]:
    """Train until `ends` (by `time.monotonic`) and evaluate as chosen, and leave the model.

    What the summary tells of it; UserError as everywhere.
    """
    found = None if choice["search"] is None else str(run.path / FIT_SEARCH)
    out = str(run.path / FIT_TRAINING)
    asked = training_request(request, TrainingChoice(**choice["training"]), found, out=out, resume="auto")
    plan = plan_retrain(asked)
    training = plan.parts[0].training
    training = replace(training, schedule=replace(training.schedule, ends=ends))
    retrain_as_planned(replace(plan, parts=(replace(plan.parts[0], data=part.data, training=training),)), command)
    trained = RunFolder.open(run.path / FIT_TRAINING / part.folder)
    model, evaluation = open_model(trained.path), trained.read_json("metrics.json")
    write_model(run.path / MODEL_FOLDER, model)
    return {
        "out": str(run.path),
        "model": str(run.path / MODEL_FOLDER),
        "known": list(model.inputs.classes),
        "epochs": len(trained.read_history()),
        **{name: evaluation[name] for name in ("metrics", "intervals", "test_images")},
    }


def keep(plan: DataPlan, data: LearningData) -> DataPlan:
    """The plan of images that have been read, so that they are not read again."""
    return replace(plan, load_known=lambda: data.known)


def count_by_class(data: LearningData) -> dict[str, int]:
    """Training images by class name, those that set the threshold included."""
    known = data.known
    labels = torch.cat([known.train.labels, known.validation.labels])
    numbers = torch.bincount(labels, minlength=known.protocol.num_known).tolist()
    return dict(zip(known.protocol.class_names, numbers, strict=True))


def evaluation_seconds(data: LearningData, reading: float, budget: float) -> float:
    """What is kept for the evaluation: reading the test images as fast as the training images, and a share."""
    known = data.known
    protocol, sources = known.protocol, (known.source, known.unknown_source)
    names = (protocol.known_classes, protocol.unknown)
    tested = sum(
        source.count_classes("test").get(class_id, 0)
        for source, part in zip(sources, names, strict=True)
        for class_id in source.ids(part)
    )
    return reading * tested / (len(known.train) + len(known.validation)) + 0.05 * budget
