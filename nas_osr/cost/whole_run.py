"""What a whole run computes: its steps, how many of them, and the images that it looks at."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric

from nas_osr.cost.estimate import StepCost, count_memory, count_step, time_call, time_judging
from nas_osr.cost.memory import available_memory, check_memory
from nas_osr.cost.steps import (
    PROGRESS,
    Call,
    Step,
    augmenter,
    bare_step,
    leave_no_trace,
    measure_steps,
    random_images,
)
from nas_osr.data.protocols import Protocol
from nas_osr.training.epochs import Schedule
from nas_osr.training.fabric import describe_fabric
from nas_osr.training.graphs import Choice, StepFunction, make_step
from nas_osr.training.learner import weight_step

LESS_MEMORY = "--batch_size, --channels or --objective_config.decoder_channels"


@dataclass(frozen=True)
class Cost:
    """What a run computes; nothing of it has been measured yet.

    Not in it: what an objective learns before its first step, reading images, fitting the rule, saving.
    """

    learner: Any
    "what is trained, as Fabric wrapped it."
    optimizers: Sequence[Any]
    "of all that learns in it."
    steps: Mapping[str, Callable[[int], Step]]
    "by kind, a batch size -> a step on so many random images."
    batch_size: int
    "images of a step."
    protocol: Protocol
    "whose images."
    counts: Mapping[str, int] = field(default_factory=dict)
    "by kind, how many steps the run takes; those of steps that are only measured stay out."
    scored: int = 0
    "images that pass the learner without gradients, in the whole run."
    resident: int = 0
    "images that lie on the device."
    captured: bool = False
    "whether its kinds of step are captured, so that each keeps its memory."
    about: Mapping[str, Any] = field(default_factory=dict)
    "what else an estimate says."

    def make_steps(self, count: int) -> list[Step]:
        """A step of each kind on `count` random images."""
        return [make(count) for make in self.steps.values()]

    def measure(self, fabric: Fabric, rounds: int, warmup: int) -> dict[str, Any]:
        """See `nas_osr.cost.steps.measure_steps`; with `classes`, how many are learned."""
        measured = measure_steps(self.make_steps(self.batch_size), fabric, rounds, warmup)
        return {**measured, "classes": self.learner.module.objective.num_classes}

    def estimate(self, fabric: Fabric) -> dict[str, Any]:
        """Time, arithmetic and memory, as plain values for `--json` and `show_dry_run`.

        Returns:
            Device, precision and CPU threads, and what `about` says; parameters, how many numbers are learned; steps,
            by kind: images, flops, seconds, activation_bytes and count; of the whole run flops, seconds and in these
            scoring_seconds; memory_bytes, see `count_memory`, with their total, and available_bytes.
        """
        costs, memory = self.count(flops=True)
        for name, make in self.steps.items():
            costs[name] = replace(costs[name], seconds=time_step(make, self.batch_size, fabric.device))
        scoring_seconds = self.scored * time_judging(self.learner, self.protocol, fabric.device)
        return {
            **describe_fabric(fabric),
            **self.about,
            "parameters": sum(parameter.numel() for parameter in self.learner.parameters()),
            "steps": {name: {**asdict(cost), "count": self.counts[name]} for name, cost in costs.items()},
            "flops": sum(cost.flops * self.counts[name] for name, cost in costs.items()),
            "scoring_seconds": scoring_seconds,
            "seconds": sum(cost.seconds * self.counts[name] for name, cost in costs.items()) + scoring_seconds,
            "memory_bytes": {**memory, "total": sum(memory.values())},
            "available_bytes": available_memory(fabric.device),
        }

    def count(self, flops: bool) -> tuple[dict[str, StepCost], dict[str, int]]:
        """A step of each kind (without seconds), and the memory, see `count_memory`. Steps have run."""
        costs = {name: count_step(make, self.learner, self.batch_size, flops) for name, make in self.steps.items()}
        images = self.resident * math.prod(self.protocol.image_shape)  # uint8
        return costs, count_memory(self.learner, self.optimizers, costs.values(), images, self.captured)


def check_fits(make: Callable[[Fabric], Cost], fabric: Fabric, less_memory: str = LESS_MEMORY) -> None:
    """UserError when a run cannot be made or clearly does not fit onto its device; a warning when it may not.

    `less_memory` are the options that lower the need, as text.
    """
    with leave_no_trace():
        cost = make(fabric)
        _, memory = cost.count(flops=False)
        check_memory(sum(memory.values()), available_memory(fabric.device), str(fabric.device), less_memory)


def time_step(make: Callable[[int], Step], images: int, device: torch.device) -> float:
    """Seconds of a step on `images` images with its augmentation, from steps on fewer."""

    def both(count: int) -> Callable[[], object]:
        step = make(count)
        return lambda: (step.augment(), step.run())

    return time_call(both, images, device)


def random_step(
    name: str,
    fabric: Fabric,
    learner: Any,
    optimizers: Mapping[str, Any],
    schedule: Schedule,
    count: int,
    graphs: Choice = "off",
    update: StepFunction | None = None,
    around: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Step:
    """A step on a random batch of `count` images.

    Args:
        learner, optimizers: as Fabric wrapped them; optimisers of what learns in this step, by player.
        schedule: of its training.
        graphs: whether it is captured; see `nas_osr.training.graphs.make_step`.
        update: what the step does with images, labels and the progress of the training; None is a weight step.
        around: what `update` sets up around the bare calls.
    """
    objective, precision = learner.module.objective, fabric.strategy.precision
    images = random_images(count, objective.image_shape, fabric.device)
    labels = torch.randint(objective.num_classes, (count,), device=fabric.device)
    augment = augmenter(images, schedule.augmentation)
    inputs = augment()
    converted = precision.convert_input(inputs)

    plain = update or partial(weight_step, fabric, learner, optimizers, clip=schedule.clip, scale=schedule.scale)
    run = partial(make_step(plain, graphs, fabric, learner, optimizers), inputs, labels, PROGRESS)

    def bare() -> None:
        bare_step(learner, optimizers, converted, labels, precision, schedule.scale)

    return Step(name, count, run, Call(bare, around), augment)
