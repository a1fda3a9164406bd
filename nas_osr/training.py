"""The weight update: one loop, used by searching and retraining alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from nas_osr.data.batches import to_float
from nas_osr.distributed import average, average_gradients, join_ranks, own_rows, rank_device
from nas_osr.errors import UserError
from nas_osr.monitors import CHECK_EVERY, NORM, FiniteWatch, check_weights, gradient_norm
from nas_osr.objectives.base import Objective
from nas_osr.outputs import Outputs
from nas_osr.ranks import current_rank, refuse_ranks
from nas_osr.step_checkpoints import StepCheckpoints

Augment = Callable[[Tensor], Tensor]


class Learner(nn.Module):
    """An encoder and its objective as one module, whose forward is the loss (what Fabric wraps)."""

    def __init__(self, encoder: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.encoder = encoder
        self.objective = objective
        objective.attach(encoder)

    def forward(self, images: Tensor, labels: Tensor, player: str = "main", progress: float = 1.0) -> dict[str, Tensor]:
        """The weighted loss terms; see `Objective.losses`."""
        return self.objective.losses(self.encoder, (images, labels), player, progress)

    def infer(self, images: Tensor) -> Outputs:
        """images [B, C, H, W] in [0, 1] -> Outputs. Of a compiled encoder nothing is compiled here."""
        if self.encoder._compiled_call_impl is None:  # the next line loads the compiler
            return self.objective(self.encoder, images)
        with torch.compiler.set_stance("force_eager"):
            return self.objective(self.encoder, images)

    def player_parameters(self, player: str, encoder_weights: list[nn.Parameter]) -> list[nn.Parameter]:
        """What `player` updates; the encoder's weights belong to `main`."""
        own = self.objective.player_parameters(player)
        return encoder_weights + own if player == "main" else own


def make_optimizers(
    learner: Learner,
    encoder_weights: list[nn.Parameter],
    make: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
) -> dict[str, torch.optim.Optimizer]:
    """An optimiser for each player, in order: the objective's own choice where it has one, else what `make` returns."""
    optimizers = {}
    for player in learner.objective.players:
        parameters = learner.player_parameters(player, encoder_weights)
        optimizers[player] = learner.objective.make_optimizer(player, parameters) or make(parameters)
    return optimizers


class LossMeter:
    """Sums loss terms on the device and reads them once, so that no step waits for the device."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Count the terms of one step."""
        for name, value in losses.items():
            value = value.detach()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1

    def state_dict(self) -> dict[str, Any]:
        """What has been counted so far."""
        return {"sums": self.sums, "counts": self.counts}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on from what `state_dict` returned, on this device."""
        self.sums = {name: value.to(device) for name, value in state["sums"].items()}
        self.counts = dict(state["counts"])

    def average(self, fabric: Fabric) -> None:
        """Replace the sums by their means over all ranks."""
        average(fabric, self.sums.values())

    def means(self) -> dict[str, float]:
        """Mean of each term over the steps; UserError when one is not finite, by its name."""
        means = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        bad = [name for name, value in means.items() if value - value != 0.0]
        if bad:
            raise UserError(
                f"training diverged: loss term {bad[0]!r} is {means[bad[0]]}; lower the learning rate or its weight"
            )
        return means


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


def make_fabric(device_name: str, precision: str, threads: int, *, ranks: bool = False) -> Fabric:
    """Fabric on one device; precision auto is bf16 autocast on a GPU that has it, else 32 bits.

    Args:
        device_name: see `choose_device`; among several ranks, see `nas_osr.distributed.rank_device`.
        precision: auto, 32-true or bf16-mixed.
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
    if precision == "auto":
        precision = "bf16-mixed" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "32-true"
    if precision not in ("32-true", "bf16-mixed"):
        raise UserError(f"precision must be auto, 32-true or bf16-mixed, got {precision!r}")
    if rank.count > 1:
        return join_ranks(device, precision, rank)
    if device.type == "cpu":
        return Fabric(accelerator="cpu", devices=1, precision=precision)  # type: ignore[arg-type]
    return Fabric(accelerator="cuda", devices=[device.index or 0], precision=precision)  # type: ignore[arg-type]


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


def weight_step(
    fabric: Fabric,
    learner: Any,
    optimizers: Mapping[str, torch.optim.Optimizer],
    images: Tensor,
    labels: Tensor,
    progress: float,
    clip: float,
    scale: float = 1.0,
) -> dict[str, Tensor]:
    """Update every player once, in order.

    Args:
        learner: a `Learner` set up by Fabric.
        optimizers: one for each player, in the objective's order.
        images, labels: [B, C, H, W] float in [0, 1] and [B] int64: this rank's rows of the batch.
        progress: share of the training done, in [0, 1].
        clip: largest gradient norm of a player; 0 is off.
        scale: the summed loss is divided by this before the gradient is taken.

    Returns:
        The loss terms of all players, undivided, and the norm of each player's gradient before it is clipped, as
        `gradient_norm/PLAYER`.
    """
    terms: dict[str, Tensor] = {}
    for player, optimizer in optimizers.items():
        losses = learner(images, labels, player, progress)
        optimizer.zero_grad(set_to_none=True)
        fabric.backward(torch.stack(list(losses.values())).sum() / scale)
        average_gradients(fabric, optimizer)
        if clip > 0:
            norm = fabric.clip_gradients(learner, optimizer, max_norm=clip, error_if_nonfinite=False)
            assert norm is not None  # as it is for max_norm
        else:
            norm = gradient_norm(parameter for group in optimizer.param_groups for parameter in group["params"])
        optimizer.step()
        terms |= {**losses, NORM + player: norm}
    return terms


def train_epoch(
    fabric: Fabric,
    learner: Any,
    optimizers: Mapping[str, torch.optim.Optimizer],
    batches: Iterable[tuple[Tensor, Tensor]],
    augment: Augment,
    *,
    steps: int,
    epoch: int,
    epochs: int,
    schedule: Callable[[float], float],
    clip: float,
    scale: float = 1.0,
    before_step: Callable[[float], Mapping[str, Tensor]] | None = None,
    after_step: Callable[[float], Mapping[str, Tensor]] | None = None,
    done: int = 0,
    checkpoints: StepCheckpoints | None = None,
) -> dict[str, float]:
    """One pass over `batches` (uint8 images, labels), and the mean of each loss term and gradient norm.

    Every rank is given the whole batches, augments them alike, and learns from its own rows.

    The schedule moves the learning rate of `main`; other players keep theirs.

    Args:
        augment: float images in [0, 1] -> the same shape.
        steps: number of batches.
        epoch, epochs: how far the training is.
        schedule: position in epochs -> learning rate factor, read before each step.
        before_step, after_step: what else happens around a weight step (an architecture step); called with the
            progress, return loss terms to be logged.
        done: steps of this epoch that were done before the run was interrupted; their batches are passed over.
        checkpoints: saves between steps, and has the losses of those that are done.

    Raises:
        UserError: a loss, a gradient or a weight is not finite; noticed within `CHECK_EVERY` steps.
    """
    learner.train()
    meter, watch = LossMeter(), FiniteWatch()
    if checkpoints is not None:
        checkpoints.restore_losses(meter)

    def check() -> None:
        watch.check(epoch, epochs, steps)
        check_weights(learner, epoch, epochs)

    main = optimizers["main"]
    for step, (images, labels) in enumerate(islice(batches, done, None), start=done):
        position = epoch + step / steps
        for group in main.param_groups:
            group["lr"] = main.defaults["lr"] * schedule(position)
        progress = position / epochs
        if before_step is not None:
            meter.add(watch.see(before_step(progress), step))
        images = own_rows(fabric, augment(to_float(images))).contiguous(memory_format=torch.channels_last)
        labels = own_rows(fabric, labels)
        terms = weight_step(fabric, learner, optimizers, images, labels, progress, clip, scale)
        meter.add(watch.see(terms, step))
        if after_step is not None:
            meter.add(watch.see(after_step(progress), step))
        if (step + 1) % CHECK_EVERY == 0:
            watch.check(epoch, epochs, steps)
        if checkpoints is not None:
            checkpoints.after_step(step + 1, meter, check)
    check()
    meter.average(fabric)
    return meter.means()
