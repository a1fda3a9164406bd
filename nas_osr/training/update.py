"""The weight update of one batch, in searching and retraining alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from nas_osr.ranks.replicas import average_gradients
from nas_osr.training.monitors import NORM, gradient_norm


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
