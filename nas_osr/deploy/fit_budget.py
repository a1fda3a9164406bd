"""What is trained within a budget of time, chosen by steps that are timed here."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from lightning_fabric import Fabric

from nas_osr.cost.steps import Step, leave_no_trace, now
from nas_osr.cost.whole_run import Cost
from nas_osr.deploy.fit_request import FitRequest
from nas_osr.errors import UserError
from nas_osr.retrain.retrain_cost import count_images, retrain_cost
from nas_osr.retrain.retrain_plan import Part, plan_measured
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.strategies.pseudo_unknown import count_search_images
from nas_osr.strategies.search_plan import plan_search
from nas_osr.strategies.search_request import SearchRequest

logger = logging.getLogger(__name__)

TRAINING_SHARE = 0.9  # of the time that is left for it: what is chosen
SEARCH_SHARE = 0.35
WIDTHS = (16, 32, 64)  # of plain, or channels C of a found network; a step of the next takes at least twice as long
LEAST, ENOUGH, MOST = 5, 40, 200  # epochs
SEARCH_STEPS = 500  # of the architecture: about those of preset small on CIFAR-10, which its learning rate is for
FIRST_BATCHES = ((2000, 32), (8000, 64))  # below so many images, images a step; more steps do better than large ones
PASS_SHARE = 0.4  # of a step's seconds: its images without gradients
EPOCH_OVERHEAD = 0.1  # seconds: checkpoint, records
TIMED_SHARE, TIMED_SECONDS = 0.015, 4.0  # of the budget, and at most, for the steps of one network
FEW = 100  # training images of a class, below which a line warns


@dataclass(frozen=True)
class TrainingChoice:
    """What is trained: its width (0: a network's own), images a step, epochs, and the seconds of one as timed."""

    channels: int
    batch_size: int
    epochs: int
    epoch_seconds: float


@dataclass(frozen=True)
class SearchChoice:
    """What is searched: images a step, epochs, those of them for the weights alone, the seconds of all as timed."""

    batch_size: int
    epochs: int
    warmup_epochs: int
    seconds: float


def fit_options(request: FitRequest) -> dict[str, Any]:
    """What a search and a retraining are both told."""
    same = ("known", "unknown", "image_size", "grey", "skip_broken", "objective", "rule")
    machine = ("device", "precision", "threads", "quiet")
    return {
        **{name: getattr(request, name) for name in (*same, *machine)},
        "protocol": "folder",
        "data_dir": request.folder,
        "rule_config": {"acceptance": request.accept},
        "preset": "small",
    }


def training_request(
    request: FitRequest, choice: TrainingChoice, found: str | None = None, **output: Any
) -> RetrainRequest:
    """The retraining of a choice: of the network that a search has `found`, of the user's, or of plain."""
    network = None if found else request.network or f"plain:width={choice.channels}"
    return RetrainRequest(
        **fit_options(request),
        network=network,
        architecture=found,
        channels=choice.channels if found else 0,
        batch_size=choice.batch_size,
        epochs=choice.epochs,
        seeds=str(request.seed),
        **output,
    )


def search_request(request: FitRequest, choice: SearchChoice, **output: Any) -> SearchRequest:
    """The search of a choice."""
    return SearchRequest(
        **fit_options(request),
        batch_size=choice.batch_size,
        epochs=choice.epochs,
        strategy_config={"warmup_epochs": choice.warmup_epochs},
        seed=request.seed,
        **output,
    )


def first_choice(request: FitRequest, images: int) -> TrainingChoice:
    """What is timed first, for so many training images."""
    batch_size = next((size for below, size in FIRST_BATCHES if images < below), 128)
    return TrainingChoice(0 if request.network else WIDTHS[0], min(batch_size, images), 1, 0.0)


def choose_training(
    request: FitRequest, part: Part, seconds: float, found: str | None = None, begun: bool = False
) -> TrainingChoice:
    """The widest network for whose `ENOUGH` epochs there is time, else the narrowest, and how many there is time for.

    Narrow ones are timed first: a wide one would use up a small budget by that alone.

    Args:
        part: the retraining's, for its images.
        seconds: that are left for training, of which `TRAINING_SHARE` is given away.
        found: the run of the search whose architecture is trained, if there was one.
        begun: whether something has been computed already, so that no time is too short.

    Raises:
        UserError: there is not even time for `LEAST` epochs.
    """
    ends, one_epoch = time.perf_counter() + TRAINING_SHARE * seconds, first_choice(request, count_images(part.data)[0])
    choice = one_epoch
    for number, channels in enumerate((0,) if request.network else WIDTHS):
        wider = replace(one_epoch, channels=channels)
        training = plan_measured(training_request(request, wider, found), part.training.protocol)
        planned = replace(part, training=training)
        needed = time_epoch(request, part, partial(retrain_cost, [planned])) + EPOCH_OVERHEAD
        epochs = int(max(0.0, ends - time.perf_counter()) / needed)
        if number and epochs < ENOUGH:
            break
        choice = replace(wider, epochs=min(epochs, MOST), epoch_seconds=needed)
        if epochs < 2 * ENOUGH:
            break
    if choice.epochs < LEAST and begun:
        return replace(choice, epochs=LEAST)
    if choice.epochs < LEAST:
        lacking = LEAST * choice.epoch_seconds - (ends - time.perf_counter())
        more = request.minutes + 1.2 * lacking / TRAINING_SHARE / 60
        raise UserError(
            f"minutes: {request.minutes:g} do for {choice.epochs} epochs of {choice.epoch_seconds:.2g} seconds, and "
            f"{LEAST} are needed: give --minutes {math.ceil(10 * more) / 10:g}, or a smaller --image_size"
        )
    return choice


def choose_search(request: FitRequest, part: Part, training: TrainingChoice, seconds: float) -> SearchChoice | None:
    """The search that the request asks for, if it does, beside `ENOUGH` epochs of what is trained.

    Args:
        training: what would be trained without one.
        seconds: that are left for it and the training.

    Raises:
        UserError: the classes or the time do not allow it.
    """
    if not request.search:
        return None
    known = part.data.count_known()
    if len(known) < 3:
        raise UserError(f"search: it needs at least 3 known classes, and there are {len(known)}")
    plan = plan_search(search_request(request, SearchChoice(1, 1, 0, 0.0)))
    half = count_search_images(known, plan.classes, plan.rule_sample).half
    batch_size = max(1, min(64, half // 4))
    plan = replace(plan, weights=replace(plan.weights, batch_size=batch_size))
    epoch = time_epoch(request, part, partial(plan.strategy.cost, plan)) + EPOCH_OVERHEAD
    learning = math.ceil(SEARCH_STEPS / max(1, half // batch_size))
    warmup = math.ceil(learning / 2)
    needed = (learning + warmup) * epoch
    enough = max(needed / SEARCH_SHARE, needed + ENOUGH * training.epoch_seconds) / TRAINING_SHARE
    if enough <= seconds:
        return SearchChoice(batch_size, learning + warmup, warmup, needed)
    minutes = math.ceil(request.minutes + 1.2 * (enough - seconds) / 60)
    raise UserError(
        f"search: {SEARCH_STEPS} steps of one would take about {needed / 60:.2g} minutes, and beside a whole training "
        f"it needs --minutes {minutes}"
    )


def time_epoch(request: FitRequest, part: Part, make: Callable[[Fabric], Cost]) -> float:
    """Seconds of an epoch of what is made on a device, by the clock: what else runs on the machine counts, too."""
    with leave_no_trace():
        fabric = part.training.machine.open(ranks=False)
        cost = make(fabric)
        limit = min(TIMED_SECONDS, TIMED_SHARE * 60 * request.minutes) / len(cost.steps)
        seconds = {name: time_steps(make(cost.batch_size), fabric, limit) for name, make in cost.steps.items()}
        scored = cost.scored * PASS_SHARE * max(seconds.values()) / cost.batch_size
        return sum(cost.counts[name] * seconds[name] for name in seconds) + scored


def time_steps(step: Step, fabric: Fabric, limit: float) -> float:
    """Mean seconds of a step, after one that does not count; one is taken, and new ones until `limit`."""
    step.augment()
    step.run()
    started, count = now(fabric.device), 0
    while count < 1 or now(fabric.device) - started < limit:
        step.augment()
        step.run()
        count += 1
    return (now(fabric.device) - started) / count


def warn_of_few_pictures(counts: Mapping[str, int]) -> None:
    """A line where classes have fewer than `FEW` training images; by class name."""
    few = {name: count for name, count in counts.items() if count < FEW}
    if few:
        shown = ", ".join(f"{name} {count}" for name, count in sorted(few.items(), key=lambda item: item[1])[:10])
        logger.warning("few training pictures: %s; about %d of each class do noticeably better", shown, FEW)


def say(request: FitRequest, line: str) -> None:
    """A line on what was chosen."""
    logger.log(logging.INFO if request.quiet else logging.WARNING, "%s", line)


def recorded_choice(choice: TrainingChoice | SearchChoice | None) -> dict[str, Any] | None:
    """A choice as plain values."""
    return None if choice is None else asdict(choice)
