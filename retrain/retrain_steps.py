"""What a step of a retraining costs, on random images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric

from nas_osr.cost.steps import (
    OUTLIERS,
    PROGRESS,
    Call,
    Step,
    augmenter,
    bare_step,
    measure_steps,
    random_images,
)
from nas_osr.data.augmentation import default_augmentation
from nas_osr.data.protocols import Protocol
from nas_osr.objectives import objective_class, resolve_objective_config
from nas_osr.retrain.model import build_learner, resolve_architecture
from nas_osr.retrain.networks import check_network
from nas_osr.retrain.recipes import Recipe, make_recipe
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.search_spaces.encoder import check_image_shape
from nas_osr.search_spaces.prepare import prepare_encoder
from nas_osr.training.learner import make_optimizers
from nas_osr.training.update import weight_step


def benchmark_retrain(
    config: RetrainRequest, protocol: Protocol, fabric: Fabric, rounds: int, warmup: int
) -> dict[str, Any]:
    """Measure a step of a retraining on all known classes.

    Wrap the call in `nas_osr.cost.steps.leave_no_trace`.

    Args:
        config: the request; open fields are filled from the preset. No data are opened.
        protocol: the classes and images.
        rounds, warmup: see `nas_osr.cost.steps.take_turns`.

    Returns:
        What `nas_osr.cost.steps.measure_steps` returns for the step `retrain`, and classes: how many are known.

    Raises:
        UserError: anything in the request is wrong.
    """
    step = make_step(check_request(config, protocol), protocol, fabric)
    return {**measure_steps([step], fabric, rounds, warmup), "classes": protocol.num_known}


def check_request(config: RetrainRequest, protocol: Protocol) -> RetrainRequest:
    """The resolved configuration, with every name known and every setting checked; UserError otherwise."""
    config = config.resolved()
    assert config.recipe is not None
    check_image_shape(protocol.image_shape)
    if config.network is not None:
        check_network(config.network, protocol.image_shape)
    make_recipe(config.recipe, config.recipe_config)
    resolve_objective_config(config.objective, config.objective_config, protocol, "retrain")
    return config


@dataclass(frozen=True)
class Training:
    """A network with its heads and optimisers as a retraining makes them.

    Attributes:
        learner: as Fabric wrapped it, in train mode.
        optimizers: by player, as Fabric wrapped them, at the learning rate of the first step.
        recipe: of the retraining.
    """

    learner: Any
    optimizers: dict[str, Any]
    recipe: Recipe


def build_training(config: RetrainRequest, protocol: Protocol, fabric: Fabric) -> Training:
    """What a checked configuration trains."""
    assert config.epochs is not None and config.recipe is not None
    recipe = make_recipe(config.recipe, config.recipe_config)
    settings = resolve_objective_config(config.objective, config.objective_config, protocol, "retrain")
    learner = build_learner(config.network or resolve_architecture(config), protocol, config.objective, settings)
    prepare_encoder(learner.encoder, checkpointing=config.checkpointing, compiled=config.compile)
    if objective_class(config.objective).needs_outliers(settings):
        learner.objective.set_outliers(random_images(OUTLIERS, protocol.image_shape, torch.device("cpu")))
    optimizers = make_optimizers(learner, list(learner.encoder.parameters()), recipe.make_optimizer)
    # the schedule's first factor: random images at the peak would soon be all NaN
    for group in optimizers["main"].param_groups:
        group["lr"] *= recipe.factor(config.epochs)(0.0)
    wrapped: Any
    wrapped, *players = fabric.setup(learner, *optimizers.values())
    wrapped.mark_forward_method("infer")
    wrapped.train()
    return Training(wrapped, dict(zip(optimizers, players, strict=True)), recipe)


def make_step(config: RetrainRequest, protocol: Protocol, fabric: Fabric) -> Step:
    """The step of a checked configuration on a random batch."""
    assert config.batch_size is not None
    return batch_step(build_training(config, protocol, fabric), config.batch_size, protocol, fabric)


def batch_step(training: Training, count: int, protocol: Protocol, fabric: Fabric) -> Step:
    """A step of a training on a random batch of `count` images."""
    learner, optimizers, recipe = training.learner, training.optimizers, training.recipe
    objective, device = learner.module.objective, fabric.device
    images = random_images(count, protocol.image_shape, device)
    labels = torch.randint(protocol.num_known, (count,), device=device)
    augment = augmenter(
        images, default_augmentation(protocol, "none" if objective.makes_views else recipe.augmentation)
    )
    inputs = augment()
    scale = objective.loss_scale if recipe.scaled else 1.0
    precision = fabric.strategy.precision
    converted = precision.convert_input(inputs)

    def run() -> None:
        weight_step(fabric, learner, optimizers, inputs, labels, PROGRESS, recipe.clip, scale)

    def bare() -> None:
        bare_step(learner, optimizers, converted, labels, precision, scale)

    return Step("retrain", count, run, Call(bare), augment)
