"""What a search will cost: FLOPs, seconds and memory, from steps of its own supernet on a few random images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lightning_fabric import Fabric

from nas_osr.cost.estimate import (
    Memory,
    StepCost,
    count_memory,
    count_step,
    count_training_images,
    describe_estimate,
    image_bytes,
    time_judging,
    time_step,
)
from nas_osr.cost.memory import available_memory, check_memory
from nas_osr.cost.steps import Step, leave_no_trace
from nas_osr.data.dataset import VALIDATION_SHARE
from nas_osr.data.protocols import Protocol
from nas_osr.strategies.base import ObjectiveFactory
from nas_osr.strategies.bilevel.bilevel_steps import build_levels, make_steps
from nas_osr.strategies.bilevel.search import Levels
from nas_osr.strategies.search_request import SearchRequest
from nas_osr.training.fabric import describe_fabric, make_fabric

MEND = "--batch_size, --channels, --layers or --objective_config.decoder_channels"


def estimate_search(config: SearchRequest, protocol: Protocol) -> dict[str, Any]:
    """The cost of a search whose request has been checked: its fields are filled, its pseudo-unknowns named.

    Not in it: what an objective learns before its first step, reading images, fitting the rule, saving.

    Returns:
        See `nas_osr.cost.estimate.describe_estimate`, with device, device_name, precision, cpu_threads, epochs,
        warmup_epochs and training_images: images of the weight half.
    """
    assert config.epochs is not None and config.warmup_epochs is not None and config.batch_size is not None
    with leave_no_trace():
        fabric = make_fabric(config.device, config.precision, config.threads)
        levels, costs, memory = count_search(config, protocol, fabric)
        for index, name in enumerate(costs):
            seconds = time_step(kind(levels, config, protocol, index), config.batch_size, fabric.device)
            costs[name] = replace(costs[name], seconds=seconds)
        judging = time_judging(levels.learner, protocol, fabric.device)
        about = describe_fabric(fabric)
    half, judged = count_images(config, protocol)
    steps = half // config.batch_size
    counts = {
        "weights": steps * config.epochs,
        "architecture": steps * (config.epochs - config.warmup_epochs),
    }
    return describe_estimate(
        {**about, "epochs": config.epochs, "warmup_epochs": config.warmup_epochs, "training_images": half},
        fabric.device,
        sum(parameter.numel() for parameter in levels.learner.parameters()),
        costs,
        counts,
        # the supernet and the network that it decodes to, which is smaller but shares the heads
        2 * judged * judging * config.epochs,
        memory,
    )


def check_search_memory(
    config: SearchRequest, protocol: Protocol, fabric: Fabric, make_heads: ObjectiveFactory
) -> None:
    """UserError when its heads cannot be made or it clearly does not fit onto its device; a warning when it may not.

    The images have been read already: on a CPU only the copies of the two halves are still to come.
    """
    assert config.batch_size is not None
    own = replace(config, batch_size=config.batch_size // fabric.world_size)  # of a rank
    with leave_no_trace():
        _, _, memory = count_search(own, protocol, fabric, flops=False, make_heads=make_heads)
    device = fabric.device
    check_memory(memory.total, available_memory(device), str(device), MEND)


def count_search(
    config: SearchRequest,
    protocol: Protocol,
    fabric: Fabric,
    flops: bool = True,
    make_heads: ObjectiveFactory | None = None,
) -> tuple[Levels, dict[str, StepCost], Memory]:
    """The levels of a search, what a step of each kind costs (without seconds), and the memory. Steps have run."""
    assert config.batch_size is not None
    levels = build_levels(config, protocol, fabric, make_heads)
    costs = {
        name: count_step(kind(levels, config, protocol, index), levels.learner, config.batch_size, flops)
        for index, name in enumerate(("weights", "architecture"))
    }
    half, judged = count_images(config, protocol)
    on_device = image_bytes(protocol, 2 * half + judged)
    optimizers = [*levels.players.values(), levels.architecture]
    return levels, costs, count_memory(levels.learner, optimizers, costs.values(), on_device)


def kind(levels: Levels, config: SearchRequest, protocol: Protocol, index: int) -> Callable[[int], Step]:
    """Batch size -> the weight step (0) or architecture step (1)."""
    return lambda count: make_steps(levels, replace(config, batch_size=count), protocol)[index]


def count_images(config: SearchRequest, protocol: Protocol) -> tuple[int, int]:
    """Images of a half, and images that are judged after each epoch: rule sample, validation and pseudo-unknown."""
    counts = count_training_images(protocol, config.data_folder, config.limit_per_class)
    pseudo = config.pseudo_unknown or []
    kept = sum(count for label, count in enumerate(counts) if label not in pseudo)
    validation = round(VALIDATION_SHARE * kept)
    half = (kept - validation) // 2
    per_class = validation // (len(counts) - len(pseudo))
    return half, min(config.rule_sample, 2 * half) + validation + per_class * len(pseudo)
