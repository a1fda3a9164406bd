"""The parts of a retraining: one network, trained from scratch on one split with one seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from torch import Tensor

from nas_osr.configuration import parse_range
from nas_osr.data.augmentation import default_augmentation
from nas_osr.data.protocols import Protocol
from nas_osr.plans import DataPlan, MachinePlan, ObjectivePlan, plan_data, plan_machine, plan_objective
from nas_osr.retrain.model import build_learner
from nas_osr.retrain.networks import check_network
from nas_osr.retrain.recipes import Recipe
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.encoder import check_image_shape
from nas_osr.training.epochs import Schedule
from nas_osr.training.learner import Learner, make_optimizers, set_up


@dataclass(frozen=True)
class SchedulePlan:
    """How long, and in which steps.

    Attributes:
        recipe: optimiser, schedule and augmentation.
        epochs: passes over the training images.
        batch_size: images a step, of all ranks together.
    """

    recipe: Recipe
    epochs: int
    batch_size: int

    def of_rank(self, ranks: int) -> SchedulePlan:
        """What one of several ranks computes of it."""
        return replace(self, batch_size=self.batch_size // ranks)


@dataclass(frozen=True)
class TrainingPlan:
    """One network that is trained from scratch.

    Attributes:
        network: the architecture of a discrete network, or the name of a baseline network.
        protocol: the classes and images.
        objective: what it learns, and how it is judged.
        schedule: how long.
        machine: where.
    """

    network: Architecture | str
    protocol: Protocol
    objective: ObjectivePlan
    schedule: SchedulePlan
    machine: MachinePlan

    def make_learner(self) -> Learner:
        """The network and its heads with fresh weights (from torch's global generator). UserError: they do not fit."""
        return build_learner(self.network, self.protocol, self.objective.name, self.objective.settings)

    def build(self, outliers: Tensor) -> Learner:
        """The same, ready to train; `outliers`, uint8 [n, C, H, W], are looked at where the objective needs them."""
        learner = self.make_learner()
        self.machine.prepare(learner.encoder)
        if self.objective.needs_outliers:
            learner.objective.set_outliers(outliers)
        return learner

    def set_up(self, learner: Learner, fabric: Fabric, seed: int) -> tuple[Any, dict[str, Any], Schedule]:
        """The learner and its optimisers by player, as Fabric wraps them, and what the epoch loop follows."""
        recipe, epochs = self.schedule.recipe, self.schedule.epochs
        optimizers = make_optimizers(learner, list(learner.encoder.parameters()), recipe.make_optimizer)
        wrapped, players = set_up(fabric, learner, optimizers)
        schedule = Schedule(
            epochs=epochs,
            batch_size=self.schedule.batch_size,
            factor=recipe.factor(epochs),
            clip=recipe.clip,
            scale=learner.objective.loss_scale if recipe.scaled else 1.0,
            augmentation=default_augmentation(
                self.protocol, "none" if learner.objective.makes_views else recipe.augmentation
            ),
            seed=seed,
        )
        return wrapped, players, schedule

    def save_architecture(self, folder: Path) -> None:
        """Leave architecture.json in a run folder; a baseline network has none. Raises UserError."""
        if isinstance(self.network, Architecture):
            self.network.save(folder / "architecture.json")


@dataclass(frozen=True)
class Part:
    """One split and seed of a retraining.

    Attributes:
        folder: its name inside the retraining's.
        seed: of everything that is random in it.
        training: what is trained.
        data: what it learns from.
        recorded: what its config.yaml holds.
    """

    folder: str
    seed: int
    training: TrainingPlan
    data: DataPlan
    recorded: Mapping[str, Any]


def list_parts(request: RetrainRequest, network: Architecture | str, schedule: SchedulePlan) -> tuple[Part, ...]:
    """Every split and seed of a request whose fields are filled. UserError: something is wrong, or does not fit."""
    splits, seeds = parse_range("splits", request.splits), parse_range("seeds", request.seeds)
    parts = []
    for split in splits:
        training = plan_training(request, network, schedule, request.protocol_of(split))
        data = plan_data(request, request.published_protocol(split), training.protocol, training.objective)
        settings = asdict(training.objective.settings)
        for seed in seeds:
            folder = f"split-{split}" if len(seeds) == 1 else f"split-{split}-seed-{seed}"
            own = replace(request, splits=str(split), seeds=str(seed), objective_config=settings)
            parts.append(Part(folder, seed, training, data, own.recorded()))
    return tuple(parts)


def plan_training(
    request: RetrainRequest, network: Architecture | str, schedule: SchedulePlan, protocol: Protocol
) -> TrainingPlan:
    """What a request whose fields are filled trains on a protocol. UserError: something is wrong, or does not fit."""
    check_image_shape(protocol.image_shape)
    if isinstance(network, str):
        check_network(network, protocol.image_shape)
    objective = plan_objective(request, protocol, "retrain")
    objective.check_divided(schedule.batch_size)
    return TrainingPlan(network, protocol, objective, schedule, plan_machine(request))
