"""What a retraining will cost: FLOPs, seconds and memory, from steps of its own network on a few random images."""

from __future__ import annotations

from collections.abc import Sequence
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
from nas_osr.data.dataset import REHEARSAL_SHARE, VALIDATION_SHARE
from nas_osr.data.protocols import REHEARSAL, Protocol
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.retrain.retrain_steps import Training, batch_step, build_training
from nas_osr.training.fabric import describe_fabric, make_fabric

MEND = "--batch_size, --channels or --objective_config.decoder_channels"


def estimate_retrain(config: RetrainRequest, protocols: Sequence[Protocol]) -> dict[str, Any]:
    """The cost of a retraining whose request has been checked: its fields are filled.

    Steps are those of the part with most classes; the parts (splits and seeds) differ in little else. Not in it: what
    an objective learns before its first step, reading images, the evaluation after the last epoch, saving.

    Args:
        config: of one part.
        protocols: of every part.

    Returns:
        See `nas_osr.cost.estimate.describe_estimate`, with device, device_name, precision, cpu_threads, parts, epochs
        (of a part) and training_images (of all parts).
    """
    assert config.epochs is not None and config.batch_size is not None
    batch_size, largest = config.batch_size, most_classes(protocols)
    with leave_no_trace():
        fabric = make_fabric(config.device, config.precision, config.threads)
        training, cost, memory = count_retrain(config, largest, fabric)

        def make(count: int) -> Step:
            return batch_step(training, count, largest, fabric)

        cost = replace(cost, seconds=time_step(make, batch_size, fabric.device))
        judging = time_judging(training.learner, largest, fabric.device)
        about = describe_fabric(fabric)
    images = [count_images(config, protocol) for protocol in protocols]
    steps = sum(max(1, train // batch_size) for train, _ in images)
    return describe_estimate(
        {**about, "parts": len(protocols), "epochs": config.epochs, "training_images": sum(n for n, _ in images)},
        fabric.device,
        sum(parameter.numel() for parameter in training.learner.parameters()),
        {"retrain": cost},
        {"retrain": steps * config.epochs},
        sum(validation for _, validation in images) * judging * config.epochs,
        memory,
    )


def check_retrain_memory(config: RetrainRequest, protocols: Sequence[Protocol], fabric: Fabric) -> None:
    """UserError when a retraining clearly does not fit onto its device; a warning when it may not."""
    assert config.batch_size is not None
    own = replace(config, batch_size=config.batch_size // fabric.world_size)  # of a rank
    with leave_no_trace():
        _, _, memory = count_retrain(own, most_classes(protocols), fabric, flops=False)
    check_memory(memory.total, available_memory(fabric.device), str(fabric.device), MEND)


def count_retrain(
    config: RetrainRequest, protocol: Protocol, fabric: Fabric, flops: bool = True
) -> tuple[Training, StepCost, Memory]:
    """What is trained, the cost of a step (without seconds), and the memory. Steps have run."""
    assert config.batch_size is not None
    training = build_training(config, protocol, fabric)
    cost = count_step(
        lambda count: batch_step(training, count, protocol, fabric), training.learner, config.batch_size, flops
    )
    on_device = image_bytes(protocol, sum(count_images(config, protocol)))
    return training, cost, count_memory(training.learner, training.optimizers.values(), [cost], on_device)


def count_images(config: RetrainRequest, protocol: Protocol) -> tuple[int, int]:
    """Known training and validation images."""
    known = sum(count_training_images(protocol, config.data_folder, config.limit_per_class))
    validation = round(VALIDATION_SHARE * known)
    test = round(REHEARSAL_SHARE * known) if protocol.family == REHEARSAL else 0
    return known - validation - test, validation


def most_classes(protocols: Sequence[Protocol]) -> Protocol:
    """The one whose network has most heads."""
    return max(protocols, key=lambda protocol: protocol.num_known)
