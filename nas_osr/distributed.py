"""What several ranks (see `nas_osr.ranks`) do together; with one rank every function here is a plain call.

All ranks hold the same network and see the same shuffled, augmented batch, of which each takes its own rows. Gradients
are averaged before the optimiser looks at them, so all ranks take the same step. The first rank alone scores, writes
and reads the run folder, and tells the others what came of it.

Gradients are averaged here and not by torch's DistributedDataParallel: players and levels take turns over one module,
each with other parameters frozen, which its bookkeeping of one backward pass a forward pass does not expect.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from datetime import timedelta
from typing import Any, Generic, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm

from nas_osr.errors import UserError
from nas_osr.progress import ProgressReporter
from nas_osr.ranks import Rank
from nas_osr.recorder import Recorder, RunRecorder
from nas_osr.resumption import MAY_CHANGE
from nas_osr.runs import RunFolder

T = TypeVar("T")
R = TypeVar("R")

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


def join_ranks(device: torch.device, precision: str, rank: Rank) -> Fabric:
    """Fabric over all ranks that torchrun has started: nccl between GPUs, gloo between CPUs.

    Raises:
        UserError: the machines have different numbers of ranks.
    """
    machines, rest = divmod(rank.count, rank.local_count)
    if rest:
        raise UserError(f"{rank.count} processes, {rank.local_count} of them here: start equally many on each machine")
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # its banner is no part of the output
    strategy = Replicas(cluster_environment=TorchElasticEnvironment(), timeout=PATIENCE)
    fabric = Fabric(
        accelerator=device.type,
        devices=rank.local_count,
        num_nodes=machines,
        strategy=strategy,
        precision=precision,  # type: ignore[arg-type]
    )
    fabric.launch()
    return fabric


# Equal networks ---------------------------------------------------------------------------------------------------


def start_equal(fabric: Fabric, learner: Any) -> None:
    """Give every rank the first one's weights and buffers, and tell the objective which rows of a batch it is given.

    Args:
        learner: a `nas_osr.training.Learner` set up by Fabric.
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
    if fabric.world_size > 1:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        average(fabric, [parameter.grad for parameter in parameters if parameter.grad is not None])


def average_statistics(fabric: Fabric, module: nn.Module) -> None:
    """Replace the running statistics of BatchNorm layers by their means over all ranks."""
    if fabric.world_size > 1:
        norms = [item for item in module.modules() if isinstance(item, _BatchNorm)]
        statistics = [value for norm in norms for value in (norm.running_mean, norm.running_var) if value is not None]
        average(fabric, statistics)


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


# The first rank ---------------------------------------------------------------------------------------------------


class FirstRank(Generic[T]):
    """Something that the first rank has and no other, such as the run folder.

    Args:
        fabric: of all ranks.
        value: on the first rank; elsewhere nobody reads it.
    """

    def __init__(self, fabric: Fabric, value: T) -> None:
        self._fabric = fabric
        self.value = value

    @property
    def alone(self) -> bool:
        """Whether there is no other rank."""
        return self._fabric.world_size == 1

    def call(self, function: Callable[[T], R]) -> R:
        """What `function` makes of the value on the first rank, on every rank: plain values and tensors on the CPU.

        Every rank calls this at the same time.

        Raises:
            UserError: `function` raised it; on every rank.
        """
        if self._fabric.world_size == 1:
            return function(self.value)
        if self._fabric.global_rank > 0:
            outcome = receive(self._fabric)
            if "error" in outcome:
                raise UserError(outcome["error"])
            return outcome["result"]
        try:
            result = function(self.value)
        except UserError as error:
            send(self._fabric, {"error": str(error)})
            raise
        send(self._fabric, {"result": result})
        return result


@contextlib.contextmanager
def opened_by_first(fabric: Fabric, opening: Callable[[], AbstractContextManager[T]]) -> Iterator[FirstRank[T]]:
    """What `opening` opens on the first rank, closed at the end; its UserError is raised on every rank."""
    with ExitStack() as stack:
        opened: list[Any] = [None]

        def enter(_: None) -> None:
            opened[0] = stack.enter_context(opening())

        FirstRank(fabric, None).call(enter)
        yield FirstRank(fabric, opened[0])


class FirstRankRecorder:
    """A `Recorder` of the first rank, for all: each hears what it restores, or what goes wrong."""

    def __init__(self, recorder: FirstRank[Any]) -> None:
        self._recorder: FirstRank[Recorder] = recorder

    def record(self, record: dict[str, Any], timing: dict[str, Any]) -> None:
        """See `Recorder`."""
        self._recorder.call(lambda recorder: recorder.record(record, timing))

    def wants_checkpoint(self) -> bool:
        """See `Recorder`. Several ranks save at the end of epochs only: they never wait for each other to agree."""
        return self._recorder.alone and self._recorder.value.wants_checkpoint()

    def save(self, state: dict[str, Any]) -> None:
        """See `Recorder`; the first rank's state is kept."""
        self._recorder.call(lambda recorder: recorder.save(state))

    def restore(self) -> dict[str, Any] | None:
        """See `Recorder`."""
        return self._recorder.call(lambda recorder: recorder.restore())

    def history(self) -> list[dict[str, Any]]:
        """See `Recorder`."""
        return self._recorder.call(lambda recorder: recorder.history())


@contextlib.contextmanager
def open_recorder(
    fabric: Fabric, folder: FirstRank[RunFolder], reporter: ProgressReporter, resume: bool, checkpoint_minutes: float
) -> Iterator[FirstRankRecorder]:
    """A recorder over the first rank's run folder, for every rank; see `nas_osr.recorder.RunRecorder`."""

    @contextlib.contextmanager
    def opening() -> Iterator[RunRecorder]:
        with reporter, RunRecorder(folder.value, reporter, resume, checkpoint_minutes) as recorder:
            yield recorder

    with opened_by_first(fabric, opening) as recorder:
        yield FirstRankRecorder(recorder)


def check_same(fabric: Fabric, what: str, value: str) -> None:
    """UserError, on every rank, unless all have the same `value`."""
    if fabric.world_size == 1:
        return
    different = torch.tensor(int(FirstRank(fabric, value).call(str) != value), device=fabric.device)
    dist.all_reduce(different)
    if different:
        raise UserError(f"the {what} of {int(different)} of {fabric.world_size} processes are not those of the first")


def check_same_config(fabric: Fabric, config: Mapping[str, Any]) -> None:
    """UserError, on every rank, unless all were asked for the same, but for what may change between machines."""
    check_same(fabric, "options", str({name: value for name, value in config.items() if name not in MAY_CHANGE}))


def send(fabric: Fabric, value: dict[str, Any]) -> None:
    """Send plain values and tensors from the first rank to all others."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    content = torch.frombuffer(bytearray(buffer.getbuffer()), dtype=torch.uint8).to(fabric.device)
    dist.broadcast(torch.tensor(len(content), device=fabric.device), 0)
    dist.broadcast(content, 0)


def receive(fabric: Fabric) -> dict[str, Any]:
    """What the first rank sends; nothing but plain values and tensors can be in it."""
    size = torch.zeros((), dtype=torch.int64, device=fabric.device)
    dist.broadcast(size, 0)
    content = torch.zeros(int(size), dtype=torch.uint8, device=fabric.device)
    dist.broadcast(content, 0)
    return torch.load(io.BytesIO(content.cpu().numpy().tobytes()), map_location="cpu", weights_only=True)
