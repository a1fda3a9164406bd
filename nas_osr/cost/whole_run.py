"""What a whole run computes: its steps, how many of them, and the images that it looks at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric

from nas_osr.cost.estimate import (
    Memory,
    StepCost,
    count_memory,
    count_step,
    describe_estimate,
    image_bytes,
    time_judging,
    time_step,
)
from nas_osr.cost.memory import available_memory, check_memory
from nas_osr.cost.steps import PROGRESS, Call, Step, augmenter, bare_step, random_images
from nas_osr.data.protocols import Protocol
from nas_osr.training.epochs import Schedule
from nas_osr.training.fabric import describe_fabric
from nas_osr.training.graphs import Choice, make_step
from nas_osr.training.update import weight_step


@dataclass(frozen=True)
class Cost:
    """What a run computes; nothing of it has been measured yet.

    Not in it: what an objective learns before its first step, reading images, fitting the rule, saving.

    Attributes:
        learner: what is trained, as Fabric wrapped it.
        optimizers: of all that learns in it.
        steps: by kind, a batch size -> a step on so many random images.
        counts: by kind, how many steps the run takes.
        batch_size: images of a step.
        scored: images that pass the learner without gradients, in the whole run.
        resident: images that lie on the device.
        protocol: whose images.
        about: what else an estimate says.
    """

    learner: Any
    optimizers: Sequence[Any]
    steps: Mapping[str, Callable[[int], Step]]
    counts: Mapping[str, int]
    batch_size: int
    scored: int
    resident: int
    protocol: Protocol
    about: Mapping[str, Any]

    def check_memory(self, device: torch.device, mend: str) -> None:
        """UserError when the run clearly does not fit onto its device; a warning when it may not.

        `mend` are the options that lower the need, as text.
        """
        _, memory = self.count(flops=False)
        check_memory(memory.total, available_memory(device), str(device), mend)

    def estimate(self, fabric: Fabric) -> dict[str, Any]:
        """Time, arithmetic and memory; see `describe_estimate`. With `about`, device, precision and CPU threads."""
        device = fabric.device
        costs, memory = self.count(flops=True)
        for name, make in self.steps.items():
            costs[name] = replace(costs[name], seconds=time_step(make, self.batch_size, device))
        return describe_estimate(
            {**describe_fabric(fabric), **self.about},
            device,
            sum(parameter.numel() for parameter in self.learner.parameters()),
            costs,
            self.counts,
            self.scored * time_judging(self.learner, self.protocol, device),
            memory,
        )

    def count(self, flops: bool) -> tuple[dict[str, StepCost], Memory]:
        """A step of each kind (without seconds), and the memory. Steps have run."""
        costs = {name: count_step(make, self.learner, self.batch_size, flops) for name, make in self.steps.items()}
        images = image_bytes(self.protocol, self.resident)
        return costs, count_memory(self.learner, self.optimizers, costs.values(), images)


def random_step(
    name: str,
    fabric: Fabric,
    learner: Any,
    optimizers: Mapping[str, Any],
    schedule: Schedule,
    count: int,
    graphs: Choice = "off",
) -> Step:
    """A weight step on a random batch of `count` images.

    Args:
        learner, optimizers: as Fabric wrapped them; optimisers by player.
        schedule: of its training.
        graphs: whether it is captured; see `nas_osr.training.graphs.make_step`.
    """
    objective, precision = learner.module.objective, fabric.strategy.precision
    images = random_images(count, objective.image_shape, fabric.device)
    labels = torch.randint(objective.num_classes, (count,), device=fabric.device)
    augment = augmenter(images, schedule.augmentation)
    inputs = augment()
    converted = precision.convert_input(inputs)

    plain = partial(weight_step, fabric, learner, optimizers, clip=schedule.clip, scale=schedule.scale)
    update = make_step(plain, graphs, fabric, learner, optimizers)

    def bare() -> None:
        bare_step(learner, optimizers, converted, labels, precision, schedule.scale)

    return Step(name, count, partial(update, inputs, labels, PROGRESS), Call(bare), augment)
