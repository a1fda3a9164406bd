"""An encoder and its objective as one module, and an optimiser for each of its players."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from nas_osr.objectives.base import Objective
from nas_osr.outputs import Outputs
from nas_osr.training.graphs import set_rate


class Learner(nn.Module):
    """An encoder and its objective as one module, whose forward is the loss (what Fabric wraps)."""

    def __init__(self, encoder: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.encoder = encoder
        self.objective = objective
        objective.attach(encoder)

    def forward(
        self, images: Tensor, labels: Tensor, player: str = "main", progress: float | Callable[[], Tensor] = 1.0
    ) -> dict[str, Tensor]:
        """The weighted loss terms; see `Objective.losses`. A function hands a tensor through Fabric as it is."""
        share = progress() if callable(progress) else progress
        return self.objective.losses(self.encoder, (images, labels), player, share)

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


def set_up(
    fabric: Fabric, learner: Learner, optimizers: Mapping[str, torch.optim.Optimizer]
) -> tuple[Any, dict[str, Any]]:
    """The learner, on its device, and the optimisers by name, as Fabric wraps them; `infer` can be called, too."""
    wrapped: Any
    wrapped, *wrapped_optimizers = fabric.setup(learner, *optimizers.values())
    wrapped.mark_forward_method("infer")
    for group in (group for optimizer in wrapped_optimizers for group in optimizer.param_groups):
        set_rate(group, group["lr"])
    return wrapped, dict(zip(optimizers, wrapped_optimizers, strict=True))
