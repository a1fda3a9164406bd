"""What a retraining computes, from its own network; and its step, measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from lightning_fabric import Fabric

from nas_osr.cost.steps import OUTLIERS, Step, leave_no_trace, measure_steps, random_images
from nas_osr.cost.whole_run import Cost, random_step
from nas_osr.data.dataset import REHEARSAL_SHARE, VALIDATION_SHARE
from nas_osr.data.protocols import REHEARSAL
from nas_osr.plans import DataPlan
from nas_osr.retrain.parts import Part, TrainingPlan
from nas_osr.training.epochs import Schedule

MEND = "--batch_size, --channels or --objective_config.decoder_channels"


def estimate_retrain(parts: Sequence[Part]) -> dict[str, Any]:
    """What a retraining will cost; see `nas_osr.cost.whole_run.Cost.estimate`.

    Also in it: parts, epochs (of a part) and training_images (of all parts).
    """
    with leave_no_trace():
        fabric = parts[0].training.machine.open(ranks=False)
        return retrain_cost(parts, fabric).estimate(fabric)


def check_retrain_memory(parts: Sequence[Part], fabric: Fabric) -> None:
    """UserError when a retraining clearly does not fit onto its device; a warning when it may not."""
    with leave_no_trace():
        retrain_cost(parts, fabric).check_memory(fabric.device, MEND)


def benchmark_retrain(plan: TrainingPlan, fabric: Fabric, rounds: int, warmup: int) -> dict[str, Any]:
    """Measure a step of a retraining on all known classes. No data are opened.

    Wrap the call in `nas_osr.cost.steps.leave_no_trace`.

    Args:
        plan: what is trained.
        rounds, warmup: see `nas_osr.cost.steps.take_turns`.

    Returns:
        What `nas_osr.cost.steps.measure_steps` returns for the step `retrain`, and classes: how many are known.
    """
    step = make_step(plan, fabric)
    return {**measure_steps([step], fabric, rounds, warmup), "classes": plan.protocol.num_known}


def retrain_cost(parts: Sequence[Part], fabric: Fabric) -> Cost:
    """What the parts of a retraining compute on each rank. The evaluation after the last epoch is not in it.

    Steps are those of the part with most classes; the parts (splits and seeds) differ in little else.
    """
    largest = max(parts, key=lambda part: part.training.protocol.num_known)
    training = replace(largest.training, schedule=largest.training.schedule.of_rank(fabric.world_size))
    learner, optimizers, schedule = build_training(training, fabric)
    images = [count_images(part.data) for part in parts]
    steps = sum(max(1, train // schedule.batch_size) for train, _ in images)
    return Cost(
        learner=learner,
        optimizers=list(optimizers.values()),
        steps={"retrain": lambda count: random_step("retrain", fabric, learner, optimizers, schedule, count)},
        counts={"retrain": steps * schedule.epochs},
        batch_size=schedule.batch_size,
        scored=sum(validation for _, validation in images) * schedule.epochs,
        resident=sum(count_images(largest.data)),
        protocol=training.protocol,
        about={"parts": len(parts), "epochs": schedule.epochs, "training_images": sum(train for train, _ in images)},
    )


def build_training(plan: TrainingPlan, fabric: Fabric) -> tuple[Any, dict[str, Any], Schedule]:
    """What `TrainingPlan.set_up` returns, in train mode at the learning rate of the first step.

    Outliers are random images where the objective needs them.
    """
    outliers = random_images(OUTLIERS, plan.protocol.image_shape, torch.device("cpu"))
    learner, optimizers, schedule = plan.set_up(plan.build(outliers), fabric, seed=0)
    for group in optimizers["main"].param_groups:  # random images at the peak would soon be all NaN
        group["lr"] *= schedule.factor(0.0)
    learner.train()
    return learner, optimizers, schedule


def make_step(plan: TrainingPlan, fabric: Fabric) -> Step:
    """The step of a training on a random batch."""
    return random_step("retrain", fabric, *build_training(plan, fabric), plan.schedule.batch_size, plan.machine.graphs)


def count_images(data: DataPlan) -> tuple[int, int]:
    """Known training and validation images."""
    known = sum(data.count_known())
    validation = round(VALIDATION_SHARE * known)
    test = round(REHEARSAL_SHARE * known) if data.protocol.family == REHEARSAL else 0
    return known - validation - test, validation
