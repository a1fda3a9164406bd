"""The two levels of a bilevel search: weights, and alphas with betas, each with its own optimisers and steps."""

from __future__ import annotations

import logging
import math
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from nas_osr.errors import UserError
from nas_osr.objectives.parts.freezing import frozen, unrecorded, without_gradients
from nas_osr.ranks.replicas import average_gradients
from nas_osr.search_spaces.architectures.decoding import name_cell, path_chances
from nas_osr.search_spaces.supernet import Supernet, build_supernet
from nas_osr.strategies.base import SearchPlan
from nas_osr.strategies.bilevel.gradients import gradients
from nas_osr.strategies.bilevel.operation_stopping import OperationStopping
from nas_osr.strategies.bilevel.samplers import HardGumbel, set_sampler
from nas_osr.strategies.bilevel.unrolling import unrolled_gradients
from nas_osr.training.epochs import Batch, Schedule
from nas_osr.training.graphs import DEVICES, Choice
from nas_osr.training.learner import Learner, make_optimizers, set_up, weight_step
from nas_osr.training.monitors import NORM, gradient_norm

logger = logging.getLogger(__name__)

ARCHITECTURE_BETAS = (0.5, 0.999)  # of the architecture's Adam
COOLING = 0.8  # factor on a temperature that is lowered until the choices are decided
COLDEST = 1e-4  # at which it is left, where logits are equal


class Levels:
    """The supernet with its heads, and an optimiser for each level: weights (one a player) and alphas with betas.

    Weights are fresh, from torch's global generator. UserError when the heads cannot be made.

    Attributes:
        learner: supernet and objective as Fabric wrapped them.
        players: the weights' optimisers by player.
        architecture: the optimiser of alphas and betas.
    """

    def __init__(self, plan: SearchPlan, fabric: Fabric, outliers: Tensor) -> None:
        build = partial(build_supernet, partial_channels=plan.strategy.config.partial_channels)
        supernet: Supernet = plan.make_encoder(build, plan.space)
        heads = plan.make_heads(supernet, outliers)
        self.supernet, self.heads, self.fabric = supernet, heads, fabric
        learner = Learner(supernet, heads).to(memory_format=torch.channels_last)
        plan.machine.prepare(supernet)
        self.config, self.epochs = plan.strategy.config, plan.weights.epochs
        set_sampler(supernet, self.config.sampler)
        weights = supernet.weight_parameters()
        self.frozen_weights = [*weights, *heads.parameters()]
        architecture = torch.optim.Adam(
            list(supernet.architecture_parameters.values()),
            lr=plan.strategy.config.architecture_lr,
            betas=ARCHITECTURE_BETAS,
            fused=True,
        )
        players = make_optimizers(learner, weights, plan.weights.recipe.make_optimizer)
        self.learner, self.players = set_up(fabric, learner, {**players, "": architecture})
        self.architecture = self.players.pop("")
        self.stopping: OperationStopping | None = None
        if self.config.freeze_below:
            if len(self.players) > 1:
                raise UserError("freeze_below: the objective has several players, whose gradients mix: leave it out")
            self.stopping = OperationStopping(supernet, fabric, self.config.freeze_below, self.config.freeze_window)

    def set_temperature(self, temperature: float) -> None:
        """Of alphas and betas, or of what is sampled of them; above 0."""
        draw = self.supernet.draw
        (draw if isinstance(draw, HardGumbel) else self.supernet).set_temperature(temperature)

    def settle(self, temperature: float, entropy: float) -> float:
        """Set the temperature, lowered until the mean entropy of alphas and betas is at most this; the temperature."""
        self.set_temperature(temperature)
        while temperature > COLDEST and mean_entropy(self.supernet, ("alpha_", "beta_")) > entropy:
            temperature *= COOLING
            self.set_temperature(temperature)
        return temperature

    def fixed_architecture(self) -> AbstractContextManager[None]:
        """Inside, alphas and betas take no gradient: a fifth of what a weight step would launch is theirs."""
        return without_gradients(self.supernet.architecture_parameters.values())

    def weight_step(self, images: Tensor, labels: Tensor, progress: Any, schedule: Schedule) -> dict[str, Tensor]:
        """Update the weights on one batch; alphas and betas stay as they are."""
        with self.fixed_architecture():
            return weight_step(
                self.fabric, self.learner, self.players, images, labels, progress, schedule.clip, schedule.scale
            )

    def architecture_step(self, images: Tensor, labels: Tensor, progress: Any) -> dict[str, Tensor]:
        """Update alphas and betas on one batch; weights and running statistics stay as they are."""
        if self.stopping is not None:
            return self.watched_step(self.stopping, images, labels, progress)
        with frozen(self.learner, self.frozen_weights):
            losses = self._losses(images, labels, progress)
            self.architecture.zero_grad(set_to_none=True)
            self.fabric.backward(torch.stack(list(losses.values())).sum())
            return self._update(losses)

    def watched_step(
        self, stopping: OperationStopping, images: Tensor, labels: Tensor, progress: Any
    ) -> dict[str, Tensor]:
        """The same, with the gradients of the operations' weights, which they do not follow."""
        logits, watched = list(self.supernet.architecture_parameters.values()), stopping.learning()
        others = {*self.frozen_weights} - {*watched}
        with frozen(self.learner, others):
            losses = self._losses(images, labels, progress)
            total = torch.stack(list(losses.values())).sum()
            found = gradients(self.fabric, total, [*logits, *watched])
        for own, gradient in zip(logits, found, strict=False):
            own.grad = gradient
        pairs = zip(watched, found[len(logits) :], strict=True)
        stopping.look({weight: gradient for weight, gradient in pairs if gradient is not None})
        return self._update(losses)

    def unrolled_step(self, images: Tensor, labels: Tensor, progress: Any, training: Batch) -> dict[str, Tensor]:
        """The same for the weights that a step on the batch `training` would lead to; see `unrolled_gradients`."""
        kept: list[dict[str, Tensor]] = []

        def validation() -> Tensor:
            kept.append(self._losses(images, labels, progress))
            return torch.stack(list(kept[0].values())).sum()

        def of_training() -> Tensor:
            return torch.stack(list(self.learner(*training, "main", progress).values())).sum()

        main = self.players["main"]
        weights = [weight for group in main.param_groups for weight in group["params"] if weight.requires_grad]
        logits = list(self.supernet.architecture_parameters.values())
        with unrecorded(self.learner):
            rate = float(main.param_groups[0]["lr"])
            ahead = unrolled_gradients(self.fabric, of_training, validation, weights, logits, rate)
        for own, gradient in zip(logits, ahead, strict=True):
            own.grad = gradient
        return self._update(kept[0])

    def _losses(self, images: Tensor, labels: Tensor, progress: Any) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = self.learner(images, labels, "main", progress)
        if self.config.entropy_weight:
            warm_up = self.config.warmup_epochs / self.epochs
            done = progress() if callable(progress) else progress
            entropy = mean_entropy(self.supernet)
            factor = self.config.entropy_weight * (done - warm_up) / (1 - warm_up)
            if isinstance(factor, Tensor):  # of a captured step, in float64
                factor = factor.to(entropy.dtype)
            losses = {**losses, "alpha_entropy": factor * entropy}
        return losses

    def _update(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        average_gradients(self.fabric, self.architecture)
        norm = gradient_norm(self.supernet.architecture_parameters.values())
        self.architecture.step()
        return {**{f"architecture/{name}": value for name, value in losses.items()}, f"{NORM}architecture": norm}

    def describe_weights(self) -> dict[str, Any]:
        """What a history record has of it: alpha and beta of every cell, what beta says of paths, and gamma and join
        where the space has such choices."""
        space, alphas, betas = self.supernet.space, self.supernet.alphas(), self.supernet.betas()
        gammas = {
            choice: {str(name): p for name, p in zip(space.choices[choice], gamma, strict=True)}
            for choice, gamma in self.supernet.gammas().items()
        }
        joins = {name_cell(cell): {"one": one, "both": both} for cell, (one, both) in self.supernet.joins().items()}
        return {
            "alpha": {
                name_cell(cell): dict(zip(space.operations, alpha, strict=True)) for cell, alpha in alphas.items()
            },
            "beta": {name_cell(cell): {"finer": finer, "same": same} for cell, (finer, same) in betas.items()},
            **({"gamma": gammas} if gammas else {}),
            **({"join": joins} if joins else {}),
            "paths": path_chances(space, betas),
        }


def mean_entropy(supernet: Supernet, kinds: tuple[str, ...] = ("alpha_",)) -> Tensor:
    """The mean entropy of choices over its largest, in [0, 1]; 0 where each has one candidate.

    Args:
        kinds: how the labels of their logits begin.
    """
    found = []
    for label, logits in supernet.architecture_parameters.items():
        if label.startswith(kinds) and len(logits) > 1:
            p = supernet.weighers[label].expected(logits).clamp(min=torch.finfo(logits.dtype).tiny)
            found.append(-(p * p.log()).sum() / math.log(len(logits)))
    first = next(iter(supernet.architecture_parameters.values()))
    return torch.stack(found).mean() if found else first.new_zeros(())


def capturing(config: Any, choice: Choice, fabric: Fabric) -> Choice:
    """Whether steps are captured, where a bilevel search can have that at all; what prevents it is said."""
    reasons = {
        "sampler gdas evaluates what has been drawn alone, which Python decides": config.sampler == "gdas",
        "an unrolled step moves weights to and fro": config.unrolled,
        "operations are frozen by what Python reads of their gradients": bool(config.freeze_below),
    }
    for reason, prevents in reasons.items():
        if prevents and (choice == "on" or (choice == "auto" and fabric.device.type in DEVICES)):
            logger.warning("--graphs %s: %s; steps run plainly", choice, reason)
            return "off"
    return choice
