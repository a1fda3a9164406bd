"""The gradient of alphas and betas one weight step ahead: DARTS of second order, by finite differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from lightning_fabric import Fabric
from torch import Tensor

from nas_osr.strategies.bilevel.gradients import gradients

STEP = 0.01  # over the norm of the weights' gradient: how far the weights are moved for the finite difference (DARTS)


def unrolled_gradients(
    fabric: Fabric,
    training: Callable[[], Tensor],
    validation: Callable[[], Tensor],
    weights: Sequence[Tensor],
    architecture: Sequence[Tensor],
    rate: float,
) -> list[Tensor | None]:
    """d/da validation(w - rate dtraining/dw, a), the gradient by `architecture` (Liu et al. 2019, eqs. 7 and 8).

    The product of the mixed second derivatives with a vector is the difference of two gradients at weights moved
    along it, so that it needs two passes more and no second derivative.

    Args:
        fabric: which set up what the losses come from.
        training, validation: the losses [] at the weights and architecture as they are when called; the random numbers
            that they draw are the same for both of the two passes.
        weights, architecture: leaves that take gradients; weights are as before afterwards.
        rate: of the step ahead, which is one of plain gradient descent.

    Returns:
        a gradient for each of `architecture`; None where it has no part in `validation` nor in `training`.
    """
    kept = [weight.detach().clone() for weight in weights]
    ahead = gradients(fabric, training(), weights)
    _move(weights, kept, ahead, -rate)
    found = gradients(fabric, validation(), [*weights, *architecture])
    vector = found[: len(weights)]
    direct: list[Tensor | None] = list(found[len(weights) :])
    norm = torch.nn.utils.get_total_norm([v for v in vector if v is not None])
    distance = STEP / norm.clamp(min=torch.finfo(norm.dtype).tiny)
    sides = []
    for sign in (1, -1):
        _move(weights, kept, vector, sign * distance)
        with torch.random.fork_rng(enabled=sign > 0):  # both sides begin with the same random state
            sides.append(gradients(fabric, training(), architecture))
    _move(weights, kept, vector, 0)
    for place, (above, below) in enumerate(zip(*sides, strict=True)):
        if above is not None and below is not None:
            ahead_of = -rate * (above - below) / (2 * distance)
            own = direct[place]
            direct[place] = ahead_of if own is None else own + ahead_of
    return direct


def _move(
    weights: Sequence[Tensor], kept: Sequence[Tensor], along: Sequence[Tensor | None], by: Tensor | float
) -> None:
    with torch.no_grad():
        for weight, start, direction in zip(weights, kept, along, strict=True):
            weight.copy_(start if direction is None else start + by * direction)
