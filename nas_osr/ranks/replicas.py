"""What several ranks (see `nas_osr.ranks.place`) do together; with one rank every function here is a plain call.

All ranks hold the same network and see the same shuffled, augmented batch, of which each takes its own rows. Gradients
are averaged before the optimiser looks at them, so all ranks take the same step. The first rank alone scores, writes
and reads the run folder, and tells the others what came of it.

Gradients are averaged here and not by torch's DistributedDataParallel: players and levels take turns over one module,
each with other parameters frozen, which its bookkeeping of one backward pass a forward pass does not expect.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import Precision
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm

from nas_osr.errors import UserError
from nas_osr.ranks.place import Rank

PATIENCE = timedelta(hours=6)  # how long ranks wait for each other, above all for the first one's scores


class Replicas(DDPStrategy):
    """Fabric's set-up of processes and devices, without its wrapper (see above).

    On GPUs BatchNorm takes its statistics over all ranks; torch has no such layer for CPUs.
    """

    def setup_module(self, module: nn.Module) -> nn.Module:  # type: ignore[override]
        """The module itself, its BatchNorm layers exchanged in place on a GPU; no communication."""
        return nn.SyncBatchNorm.convert_sync_batchnorm(module) if self.root_device.type == "cuda" else module


def rank_device(name: str, rank: Rank) -> str:
    """The device of one of several ranks, for `--device NAME`: the local rank's GPU, or the CPU for all.

    Raises:
        UserError: one GPU is named for all, or a machine has fewer GPUs than ranks.
    """
    visible = torch.cuda.device_count()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda:"):
        raise UserError(f"device {name!r} is one for {rank.count} processes: use cuda, which gives each its own")
    if name != "cuda":
        return name
    if rank.local_count > visible:
        raise UserError(
            f"{rank.local_count} processes on a machine where {visible} CUDA devices are visible: "
            f"start torchrun with --nproc-per-node {visible}, or use --device cpu"
        )
    return f"cuda:{rank.local_index}"


def join_ranks(device: torch.device, precision: Precision, rank: Rank) -> Fabric:
    """Fabric over all ranks that torchrun has started: nccl between GPUs, gloo between CPUs.

    Raises:
        UserError: the machines have different numbers of ranks.
    """
    machines, rest = divmod(rank.count, rank.local_count)
    if rest:
        raise UserError(f"{rank.count} processes, {rank.local_count} of them here: start equally many on each machine")
    strategy = Replicas(cluster_environment=TorchElasticEnvironment(), timeout=PATIENCE)
    fabric = Fabric(
        accelerator=device.type,
        devices=rank.local_count,
        num_nodes=machines,
        strategy=strategy,
        plugins=[precision],
    )
    fabric.launch()
    atexit.register(leave_ranks)
    return fabric


def leave_ranks() -> None:
    """End the process group and its threads, if there is one; the last thing that a process of several does.

    A thread of gloo's that comes to drop a tensor when Python is being taken down aborts the process. Nothing is waited
    for: what this rank has sent arrives, and a rank that fails does not stay for the others.
    """
    if dist.is_initialized():
        dist.destroy_process_group()


# Equal networks ---------------------------------------------------------------------------------------------------


def start_equal(fabric: Fabric, learner: Any) -> None:
    """Give every rank the first one's weights and buffers, and tell the objective which rows of a batch it is given.

    Args:
        learner: a `nas_osr.training.learner.Learner` set up by Fabric.
    """
    if fabric.world_size > 1:
        learner.objective.share = (fabric.global_rank, fabric.world_size)
        together(learner.state_dict().values(), lambda flat: dist.broadcast(flat, 0))


def own_rows(fabric: Fabric, batch: Tensor) -> Tensor:
    """This rank's part [B / ranks, ...] of a batch [B, ...]; all of it when there is one rank."""
    if fabric.world_size == 1:
        return batch
    if len(batch) % fabric.world_size:
        raise ValueError(f"{len(batch)} rows cannot be divided among {fabric.world_size} ranks")
    return batch.chunk(fabric.world_size)[fabric.global_rank]


def average_gradients(fabric: Fabric, optimizer: torch.optim.Optimizer) -> None:
    """Replace the gradients that an optimiser is about to use by their means over all ranks.

    Every rank must have a gradient for the same parameters.
    """
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    average(fabric, (parameter.grad for parameter in parameters if parameter.grad is not None))


def average_statistics(fabric: Fabric, module: nn.Module) -> None:
    """Replace the running statistics of BatchNorm layers by their means over all ranks."""
    norms = (item for item in module.modules() if isinstance(item, _BatchNorm))
    average(fabric, (value for norm in norms for value in (norm.running_mean, norm.running_var) if value is not None))


def average(fabric: Fabric, tensors: Iterable[Tensor]) -> None:
    """Replace tensors by their means over all ranks, in place."""

    def reduce(flat: Tensor) -> None:
        dist.all_reduce(flat)
        flat /= fabric.world_size

    if fabric.world_size > 1:
        together(tensors, reduce)


def together(tensors: Iterable[Tensor], exchange: Callable[[Tensor], Any]) -> None:
    """Run `exchange` on all tensors of a type at once, as one flat tensor that it changes in place."""
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        by_type.setdefault(tensor.dtype, []).append(tensor)
    with torch.no_grad():
        for members in by_type.values():
            flat = torch.cat([tensor.reshape(-1) for tensor in members])
            exchange(flat)
            for tensor, part in zip(members, flat.split([tensor.numel() for tensor in members]), strict=True):
                tensor.copy_(part.view(tensor.shape))


def assert_equal(fabric: Fabric, tensors: Iterable[Tensor], what: str) -> None:
    """RuntimeError, on every rank, when float32 tensors are not the same on all of them, bit by bit."""
    if fabric.world_size == 1:
        return
    own = torch.cat([tensor.detach().reshape(-1) for tensor in tensors]).view(torch.int32)
    first = own.clone()
    dist.broadcast(first, 0)
    different = (own != first).any().int()
    dist.all_reduce(different)
    if different:
        raise RuntimeError(f"{what} are not equal on {int(different)} of {fabric.world_size} ranks")
