"""What the steps of a bilevel search cost, on random images."""

from __future__ import annotations

from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from nas_osr.cost.steps import (
    OUTLIERS,
    PROGRESS,
    Call,
    Step,
    augmenter,
    bare_step,
    describe_cost,
    measure_steps,
    random_images,
)
from nas_osr.data.augmentation import default_augmentation
from nas_osr.data.protocols import Protocol
from nas_osr.objectives import objective_class, resolve_objective_config
from nas_osr.objectives.parts.freezing import frozen
from nas_osr.search_spaces.checks import check_space
from nas_osr.search_spaces.encoder import check_image_shape, feature_shapes
from nas_osr.search_spaces.supernet import Supernet, build_supernet
from nas_osr.strategies.base import ObjectiveFactory
from nas_osr.strategies.bilevel.pseudo_unknown import choose_pseudo_unknown
from nas_osr.strategies.bilevel.search import Levels
from nas_osr.strategies.search_request import SearchRequest, check_request
from nas_osr.training.loop import weight_step


def benchmark_search(
    config: SearchRequest, protocol: Protocol, fabric: Fabric, rounds: int, warmup: int
) -> dict[str, Any]:
    """Measure a weight step and an architecture step of the supernet, with the classes that PAS keeps.

    Wrap the call in `nas_osr.cost.steps.leave_no_trace`.

    Args:
        config: the request; open fields are filled from the preset. No data are opened.
        protocol: the classes and images.
        rounds, warmup: see `nas_osr.cost.steps.take_turns`.

    Returns:
        What `nas_osr.cost.steps.measure_steps` returns for the steps `weights` and `architecture`, and
        classes: how many are kept;
        pair: one of each step: a batch of the weight half and as large a one of the architecture half;
        cell_evaluations: mixed operations evaluated in one forward pass of the supernet; cell_forms: those built.

    Raises:
        UserError: anything in the request is wrong.
    """
    config = check_request(config)
    check_space(config.space(), protocol.image_shape)
    levels = build_levels(config, protocol, fabric)
    evaluations, forms = count_cell_evaluations(levels.supernet, protocol.image_shape)
    result = measure_steps(make_steps(levels, config, protocol), fabric, rounds, warmup)
    weights, architecture = result["steps"]["weights"], result["steps"]["architecture"]
    pair = describe_cost(
        weights["seconds"] + architecture["seconds"],
        weights["images"],
        weights["flops"] + architecture["flops"],
        result["matrix_product"]["flops_per_second"],
    )
    return {
        **result,
        "classes": levels.heads.num_classes,
        "pair": pair,
        "cell_evaluations": evaluations,
        "cell_forms": forms,
    }


def build_levels(
    config: SearchRequest, protocol: Protocol, fabric: Fabric, make_heads: ObjectiveFactory | None = None
) -> Levels:
    """A supernet with its heads for the classes that PAS keeps, and its optimisers, as a search makes them.

    `make_heads` is the search's own; without it the configured objective's, with random images where it needs outliers.
    """
    check_image_shape(protocol.image_shape)
    objective = objective_class(config.objective)
    settings = resolve_objective_config(config.objective, config.objective_config, protocol, "search")
    pseudo = choose_pseudo_unknown(protocol, config.pseudo_unknown, config.seed)
    kept = [label for label in range(protocol.num_known) if label not in pseudo]
    kept_settings = objective.select_classes(settings, kept, protocol.num_known)
    supernet = build_supernet(config.space(), protocol.image_shape[0], protocol.mean, protocol.std)
    shapes = feature_shapes(supernet, protocol.image_shape)
    if make_heads is not None:
        heads = make_heads(shapes, len(kept))
    else:
        heads = objective(shapes, protocol.image_shape, len(kept), kept_settings)
        if objective.needs_outliers(kept_settings):
            heads.set_outliers(random_images(OUTLIERS, protocol.image_shape, torch.device("cpu")))
    levels = Levels(supernet, heads, config, fabric)
    levels.learner.train()
    return levels


def make_steps(levels: Levels, config: SearchRequest, protocol: Protocol) -> list[Step]:
    """The weight step and the architecture step on a random batch each."""
    assert config.batch_size is not None
    recipe = default_augmentation(protocol, "none" if levels.heads.makes_views else config.augmentation)
    fabric, device, count = levels.fabric, levels.fabric.device, config.batch_size
    precision = fabric.strategy.precision

    def batch() -> tuple[Tensor, Tensor]:
        images = random_images(count, protocol.image_shape, device)
        return images, torch.randint(levels.heads.num_classes, (count,), device=device)

    (images, labels), (other_images, other_labels) = batch(), batch()
    augment, other_augment = augmenter(images, recipe), augmenter(other_images, recipe)
    inputs, other_inputs = augment(), other_augment()
    converted, other_converted = precision.convert_input((inputs, other_inputs))

    def weights() -> None:
        weight_step(fabric, levels.learner, levels.players, inputs, labels, PROGRESS, config.clip)

    def bare_weights() -> None:
        bare_step(levels.learner, levels.players, converted, labels, precision)

    def architecture() -> None:
        levels.architecture_step(other_inputs, other_labels, PROGRESS)

    def bare_architecture() -> None:
        bare_step(levels.learner, {"main": levels.architecture}, other_converted, other_labels, precision)

    bare = Call(bare_architecture, lambda: frozen(levels.learner, levels.frozen_weights))
    return [
        Step("weights", count, weights, Call(bare_weights), augment),
        Step("architecture", count, architecture, bare, other_augment),
    ]


def count_cell_evaluations(supernet: Supernet, image_shape: tuple[int, int, int]) -> tuple[int, int]:
    """Mixed operations evaluated in one forward pass, and how many forms of cells are built."""
    forms: list[nn.Module] = [*supernet.network.keep.values(), *supernet.network.halve.values()]
    calls: list[nn.Module] = []
    hooks = [form.register_forward_hook(lambda form, inputs, output: calls.append(form)) for form in forms]
    feature_shapes(supernet, image_shape)
    for hook in hooks:
        hook.remove()
    return len(calls), len(forms)
