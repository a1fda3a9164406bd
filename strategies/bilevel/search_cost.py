"""What a bilevel search computes, from its own supernet."""

from __future__ import annotations

from functools import partial

import torch
from lightning_fabric import Fabric

from nas_osr.cost.steps import OUTLIERS, PROGRESS, Call, Step, augmenter, bare_step, random_images
from nas_osr.cost.whole_run import Cost, random_step
from nas_osr.objectives.parts.freezing import frozen
from nas_osr.strategies.base import SearchPlan
from nas_osr.strategies.bilevel.levels import Levels
from nas_osr.strategies.pseudo_unknown import count_search_images
from nas_osr.training.epochs import Schedule
from nas_osr.training.graphs import Choice


def search_cost(plan: SearchPlan, fabric: Fabric) -> Cost:
    """See `nas_osr.strategies.base.Strategy.cost`; outliers are random ones where the objective needs some."""
    levels, schedule = build_levels(plan, fabric)
    images = count_search_images(plan.data.count_known(), plan.classes, plan.rule_sample)
    epochs, batch_size, warmup_epochs = plan.weights.epochs, plan.weights.batch_size, plan.strategy.config.warmup_epochs
    steps = images.half // batch_size
    return Cost(
        learner=levels.learner,
        optimizers=[*levels.players.values(), levels.architecture],
        steps={
            "weights": lambda count: random_weight_step(levels, schedule, count),
            "architecture": lambda count: random_architecture_step(levels, schedule, count),
        },
        counts={"weights": steps * epochs, "architecture": steps * (epochs - warmup_epochs)},
        batch_size=batch_size,
        # the supernet and the network that it decodes to, which is smaller but shares the heads
        scored=2 * images.judged * epochs,
        resident=2 * images.half + images.judged,
        protocol=plan.protocol,
        about={"epochs": epochs, "warmup_epochs": warmup_epochs, "training_images": images.half},
    )


def build_levels(plan: SearchPlan, fabric: Fabric) -> tuple[Levels, Schedule]:
    """The levels of a search in train mode, and the schedule of its weights."""
    outliers = random_images(OUTLIERS, plan.protocol.image_shape, torch.device("cpu"))
    levels = Levels.build(plan, fabric, outliers)
    levels.learner.train()
    return levels, plan.weights.schedule(levels.heads, plan.protocol, plan.seed)


def make_steps(levels: Levels, schedule: Schedule, count: int, graphs: Choice = "off") -> list[Step]:
    """A weight step and an architecture step on a random batch of `count` images each."""
    return [make(levels, schedule, count, graphs) for make in (random_weight_step, random_architecture_step)]


def random_weight_step(levels: Levels, schedule: Schedule, count: int, graphs: Choice = "off") -> Step:
    """The weight step on a random batch of `count` images."""
    return random_step("weights", levels.fabric, levels.learner, levels.players, schedule, count, graphs)


def random_architecture_step(levels: Levels, schedule: Schedule, count: int, graphs: Choice = "off") -> Step:
    """The architecture step on a random batch of `count` images."""
    fabric, precision = levels.fabric, levels.fabric.strategy.precision
    images = random_images(count, levels.heads.image_shape, fabric.device)
    labels = torch.randint(levels.heads.num_classes, (count,), device=fabric.device)
    augment = augmenter(images, schedule.augmentation)
    inputs = augment()
    converted = precision.convert_input(inputs)

    update = levels.make_architecture_step(graphs)

    def bare() -> None:
        bare_step(levels.learner, {"main": levels.architecture}, converted, labels, precision)

    return Step(
        "architecture",
        count,
        partial(update, inputs, labels, PROGRESS),
        Call(bare, lambda: frozen(levels.learner, levels.frozen_weights)),
        augment,
    )
