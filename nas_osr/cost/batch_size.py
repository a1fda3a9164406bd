"""How many images a step takes where that is left to the machine (`--batch_size auto`), and what it does to rates."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from nas_osr.cost.memory import CLOSE, available_memory
from nas_osr.cost.steps import leave_no_trace
from nas_osr.cost.whole_run import Cost
from nas_osr.files.storage import read_config

logger = logging.getLogger(__name__)

LARGEST = 4  # times the usual batch: what has been measured on a card
STEPS = 16  # that an epoch keeps


def pick_batch(usual: int, fabric: Fabric, make: Callable[[Fabric], Cost]) -> int:
    """The images of a step that fill a GPU; said in one line.

    The largest power of two above the usual batch, up to `LARGEST` times it, that leaves `STEPS` steps in an epoch and
    needs at most `CLOSE` of the memory that is left. On a CPU, where larger batches save nothing, the usual one.

    Args:
        usual: the preset's batch.
        make: the cost of the run, with the training images of an epoch in `about`.
    """
    if fabric.device.type == "cpu":
        logger.warning("--batch_size auto: %d, the preset's: on a CPU a larger batch is no quicker", usual)
        return usual
    with leave_no_trace():
        cost = make(fabric)
        images = cost.about["training_images"] // cost.about.get("parts", 1)
        available = available_memory(fabric.device)
        size = 1 << (LARGEST * usual).bit_length() - 1
        while size > usual:
            _, memory = replace(cost, batch_size=size).count(flops=False)
            if size * STEPS <= images and (available is None or sum(memory.values()) <= CLOSE * available):
                break
            size //= 2
    size = max(size, usual)
    logger.warning("--batch_size auto: %d (the preset's is %d)", size, usual)
    return size


def scaled_rate(rate: float, optimizer: str, batch: int, usual: int) -> float:
    """The learning rate for another batch: in proportion to it with `sgd`, to its root with others.

    Goyal et al. 2017 (linear scaling) and Malladi et al. 2022 (square root scaling of adaptive methods).
    """
    return rate * (math.sqrt(batch / usual) if optimizer != "sgd" else batch / usual)


def begun_config(out: Path, resume: bool) -> dict[str, Any]:
    """What the run that is resumed in a folder computes with; empty where none is. UserError: the file is broken."""
    file = out / "config.yaml"
    return read_config(file) if resume and file.is_file() else {}
