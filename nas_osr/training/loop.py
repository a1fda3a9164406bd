"""The weight update: one loop, used by searching and retraining alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from nas_osr.data.batches import to_float
from nas_osr.ranks.replicas import average_gradients, own_rows
from nas_osr.training.losses import LossMeter
from nas_osr.training.monitors import CHECK_EVERY, NORM, FiniteWatch, check_weights, gradient_norm
from nas_osr.training.step_checkpoints import StepCheckpoints

Augment = Callable[[Tensor], Tensor]


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
