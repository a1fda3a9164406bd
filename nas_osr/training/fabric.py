"""Device, precision and processes of a training."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision, Precision
from torch import Tensor

from nas_osr.errors import UserError
from nas_osr.ranks.place import current_rank, refuse_ranks
from nas_osr.ranks.replicas import join_ranks, rank_device
from nas_osr.runs.resumption import PRECISIONS

T = TypeVar("T")


class Autocast(MixedPrecision):
    """Autocast that leaves inputs alone: Fabric's own makes images bf16, whose 8 bits are too few to augment in."""

    def convert_input(self, data: Any) -> Any:
        """The data as they are."""
        return data


def choose_device(name: str) -> torch.device:
    """The device called auto, cpu, cuda or cuda:INDEX; UserError when it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"unknown device {name!r}: use auto, cpu, cuda or cuda:INDEX") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {name!r} is not there: {torch.cuda.device_count()} CUDA devices are visible")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device {name!r} is not supported: use auto, cpu, cuda or cuda:INDEX")
    return device


def has_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bf16 matrices itself: a GPU from Ampere on, a CPU with avx512_bf16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def make_fabric(device_name: str, precision: str, threads: int, *, ranks: bool = False) -> Fabric:
    """Fabric on one device.

    Args:
        device_name: see `choose_device`; among several ranks, see `nas_osr.ranks.replicas.rank_device`.
        precision: 32-true, or bf16-mixed, which is autocast; see `nas_osr.plans.decide_precision`.
        threads: CPU threads of this process; 0 leaves torch's choice.
        ranks: whether the caller can work in the several processes of torchrun, which then are joined.

    Raises:
        UserError: a value is wrong, or there are several processes and the caller works in one.
    """
    rank = current_rank()
    if not ranks:
        refuse_ranks("this")
    device = choose_device(device_name if rank.count == 1 else rank_device(device_name, rank))
    if threads > 0:
        torch.set_num_threads(threads)
    if precision not in PRECISIONS:
        raise UserError(f"precision must be auto, 32-true or bf16-mixed, got {precision!r}")
    # what Fabric says at its start, its banner and advice on TF32 above all, is no part of the output: float32 products
    # keep all their bits, since what is computed in float32 beside bf16 needs them, and is little
    for name in ("lightning_fabric", "pytorch_lightning"):  # whichever was imported last has the logger
        logging.getLogger(name).setLevel(logging.WARNING)
    plugin = Autocast("bf16-mixed", device.type) if precision == "bf16-mixed" else Precision()
    if rank.count > 1:
        return join_ranks(device, plugin, rank)
    devices: Any = 1 if device.type == "cpu" else [device.index or 0]
    return Fabric(accelerator=device.type, devices=devices, plugins=[plugin])


def computed_as_trained(fabric: Fabric, forward: Callable[..., T]) -> Callable[..., T]:
    """A function of images as Fabric computes that of a module that it has set up: in its precision, float32 around it.

    For a network that is only looked at, on the device already: nothing is set up for its training.
    """
    precision = fabric.strategy.precision

    def computed(images: Tensor, **options: Any) -> T:
        with precision.forward_context():
            found: T = precision.convert_output(forward(precision.convert_input(images), **options))
        return found

    return computed


def describe_fabric(fabric: Fabric) -> dict[str, Any]:
    """What a result depends on besides its configuration: the device, its name, the precision, the CPU threads
    of a process, and the number of processes."""
    device = fabric.device
    return {
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "precision": str(fabric.strategy.precision.precision),
        "cpu_threads": torch.get_num_threads(),
        "ranks": fabric.world_size,
    }
