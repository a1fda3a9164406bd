"""An encoder and its objective as one module, an optimiser for each of its players, and their update of one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from textwrap import shorten
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from nas_osr.errors import UserError
from nas_osr.objectives.base import Objective
from nas_osr.outputs import Outputs, mean_of_both
from nas_osr.ranks.replicas import average_gradients
from nas_osr.training.graphs import set_rate
from nas_osr.training.monitors import NORM, gradient_norm

MOST_SHOWN = 200  # characters of what does not fit


class Learner(nn.Module):
    """An encoder and its objective as one module, whose forward is the loss (what Fabric wraps).

    Attributes:
        mirrored: whether `infer` says the mean of what it makes of an image and of its mirror image.
    """

    def __init__(self, encoder: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.mirrored = False
        self.encoder = encoder
        self.objective = objective
        objective.attach(encoder)

    def forward(
        self, images: Tensor, labels: Tensor, player: str = "main", progress: float | Callable[[], Tensor] = 1.0
    ) -> dict[str, Tensor]:
        """The weighted loss terms; see `Objective.training_terms`. A function hands a tensor through Fabric."""
        share = progress() if callable(progress) else progress
        return self.objective.training_terms(self.encoder, (images, labels), player, share)

    def validate(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """What known validation images are watched by; see `Objective.validation_terms`."""
        return self.objective.validation_terms(self.encoder, (images, labels))

    def infer(self, images: Tensor, whole: bool = False) -> Outputs:
        """images [B, C, H, W] in [0, 1] -> Outputs; see `Objective.infer`. Nothing is compiled here."""
        look = partial(self.objective.infer, self.encoder, whole=whole)
        with self.eager():
            return mean_of_both(look, images) if self.mirrored else look(images)

    def reconstruct(self, images: Tensor) -> Tensor | None:
        """See `Objective.reconstruct`. Of a compiled encoder nothing is compiled here."""
        with self.eager():
            return self.objective.reconstruct(self.encoder, images)

    def eager(self) -> AbstractContextManager[Any]:
        """Inside, a compiled encoder is computed as it was written."""
        if self.encoder._compiled_call_impl is None:  # the next line loads the compiler
            return nullcontext()
        return torch.compiler.set_stance("force_eager")

    def player_parameters(self, player: str, encoder_weights: list[nn.Parameter]) -> list[nn.Parameter]:
        """What `player` updates; the encoder's weights belong to `main`."""
        own = self.objective.player_parameters(player)
        if player != "main":
            return own
        side = [] if self.objective.side is None else self.objective.side.parameters()
        return encoder_weights + list(dict.fromkeys([*own, *side]))


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


def set_up(
    fabric: Fabric, learner: Learner, optimizers: Mapping[str, torch.optim.Optimizer]
) -> tuple[Any, dict[str, Any]]:
    """The learner, on its device, and the optimisers by name, as Fabric wraps them; its methods can be called, too."""
    wrapped: Any
    wrapped, *wrapped_optimizers = fabric.setup(learner, *optimizers.values())
    wrapped.mark_forward_method("infer")
    wrapped.mark_forward_method("reconstruct")
    wrapped.mark_forward_method("validate")
    for group in (group for optimizer in wrapped_optimizers for group in optimizer.param_groups):
        set_rate(group, group["lr"])
    return wrapped, dict(zip(optimizers, wrapped_optimizers, strict=True))


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
        terms |= {**losses, NORM + player: clipped_step(fabric, learner, optimizer, clip)}
    return terms


def clipped_step(fabric: Fabric, learner: Any, optimizer: Any, clip: float) -> Tensor:
    """A step along gradients averaged over the ranks and clipped at a norm (0: not at all); their norm before that."""
    average_gradients(fabric, optimizer)
    if clip > 0:
        norm = fabric.clip_gradients(learner, optimizer, max_norm=clip, error_if_nonfinite=False)
        assert norm is not None  # as it is for max_norm
    else:
        norm = gradient_norm(parameter for group in optimizer.param_groups for parameter in group["params"])
    optimizer.step()
    return norm


def restore_weights(learner: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Give a learner the weights of a checkpoint.

    Raises UserError: `what`, and which are missing, too many or of another shape.
    """
    try:
        learner.load_state_dict(weights)
    except RuntimeError as error:
        wrong = str(error).partition(":\n")[2] or str(error)  # without "Error(s) in loading state_dict for Learner"
        raise UserError(f"{what}: {shorten(wrong, MOST_SHOWN)}") from error
