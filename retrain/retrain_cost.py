"""What a retraining computes, from its own network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from lightning_fabric import Fabric

from nas_osr.cost.steps import random_outliers
from nas_osr.cost.whole_run import Cost, random_step
from nas_osr.data.dataset import REHEARSAL_SHARE, VALIDATION_SHARE
from nas_osr.data.protocols import REHEARSAL
from nas_osr.plans import DataPlan
from nas_osr.retrain.retrain_plan import Part
from nas_osr.retrain.train import TrainingPlan
from nas_osr.training.graphs import Choice


def retrain_cost(parts: Sequence[Part], fabric: Fabric) -> Cost:
    """What the parts of a retraining compute on each rank. The evaluation after the last epoch is not in it.

    Steps are those of the part with most classes; the parts (splits and seeds) differ in little else. An estimate also
    says parts, epochs (of a part) and training_images (of all parts).
    """
    largest = max(parts, key=lambda part: part.training.protocol.num_known)
    schedule = largest.training.schedule
    epochs, batch_size = schedule.epochs, schedule.batch_size // fabric.world_size
    training = replace(largest.training, schedule=replace(schedule, batch_size=batch_size))
    cost, images = training_cost(training, fabric), [count_images(part.data) for part in parts]
    return replace(
        cost,
        counts={"retrain": sum(max(1, train // batch_size) for train, _ in images) * epochs},
        scored=sum(validation for _, validation in images) * epochs,
        resident=sum(count_images(largest.data)),
        about={"parts": len(parts), "epochs": epochs, "training_images": sum(train for train, _ in images)},
    )


def training_cost(plan: TrainingPlan, fabric: Fabric, graphs: Choice = "off") -> Cost:
    """The step of one training, at the learning rate of the first; no data are opened.

    Outliers are random images where the objective needs them. `graphs` is whether the step is captured.
    """
    built = plan.build(random_outliers(plan.protocol.image_shape))
    learner, optimizers, schedule = plan.schedule.set_up(built, fabric, plan.protocol, seed=0)
    for group in optimizers["main"].param_groups:  # random images at the peak would soon be all NaN
        group["lr"] *= schedule.factor(0.0)
    learner.train()
    return Cost(
        learner=learner,
        optimizers=list(optimizers.values()),
        steps={"retrain": partial(random_step, "retrain", fabric, learner, optimizers, schedule, graphs=graphs)},
        batch_size=schedule.batch_size,
        protocol=plan.protocol,
    )


def count_images(data: DataPlan) -> tuple[int, int]:
    """Known training and validation images."""
    known = sum(data.count_known())
    validation = round(VALIDATION_SHARE * known)
    test = round(REHEARSAL_SHARE * known) if data.protocol.family == REHEARSAL else 0
    return known - validation - test, validation
