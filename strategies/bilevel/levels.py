"""The two levels of a bilevel search: weights, and alphas with betas, each with its own optimisers and steps."""

from __future__ import annotations

from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from nas_osr.objectives.parts.freezing import frozen
from nas_osr.ranks.replicas import average_gradients
from nas_osr.search_spaces.architectures.decoding import name_cell, path_chances
from nas_osr.search_spaces.supernet import Supernet, build_supernet
from nas_osr.strategies.base import SearchPlan
from nas_osr.training.learner import Learner, make_optimizers, set_up
from nas_osr.training.monitors import NORM, gradient_norm

ARCHITECTURE_BETAS = (0.5, 0.999)  # of the architecture's Adam


class Levels:
    """The supernet with its heads, and an optimiser for each level: weights (one a player) and alphas with betas.

    Weights are fresh, from torch's global generator. UserError when the heads cannot be made.

    Attributes:
        learner: supernet and objective as Fabric wrapped them.
        players: the weights' optimisers by player.
        architecture: the optimiser of alphas and betas.
    """

    def __init__(self, plan: SearchPlan, fabric: Fabric, outliers: Tensor) -> None:
        supernet: Supernet = plan.make_encoder(build_supernet, plan.space)
        heads = plan.make_heads(supernet, outliers)
        self.supernet, self.heads, self.fabric = supernet, heads, fabric
        learner = Learner(supernet, heads).to(memory_format=torch.channels_last)
        plan.machine.prepare(supernet)
        weights = supernet.weight_parameters()
        self.frozen_weights = [*weights, *heads.parameters()]
        architecture = torch.optim.Adam(
            list(supernet.architecture_parameters.values()),
            lr=plan.strategy.config.architecture_lr,
            betas=ARCHITECTURE_BETAS,
            fused=True,
        )
        players = make_optimizers(learner, weights, plan.weights.recipe.make_optimizer)
        self.learner, self.players = set_up(fabric, learner, {**players, "": architecture})
        self.architecture = self.players.pop("")

    def architecture_step(self, images: Tensor, labels: Tensor, progress: float) -> dict[str, Tensor]:
        """Update alphas and betas on one batch; weights and running statistics stay as they are."""
        with frozen(self.learner, self.frozen_weights):
            losses = self.learner(images, labels, "main", progress)
            self.architecture.zero_grad(set_to_none=True)
            self.fabric.backward(torch.stack(list(losses.values())).sum())
            average_gradients(self.fabric, self.architecture)
            norm = gradient_norm(self.supernet.architecture_parameters.values())
            self.architecture.step()
        return {**{f"architecture/{name}": value for name, value in losses.items()}, f"{NORM}architecture": norm}

    def describe_weights(self) -> dict[str, Any]:
        """What a history record has of it: alpha and beta of every cell, what beta says of paths, and gamma and join
        where the space has such choices."""
        space, alphas, betas = self.supernet.space, self.supernet.alphas(), self.supernet.betas()
        gammas = {
            choice: {str(name): p for name, p in zip(space.choices[choice], gamma, strict=True)}
            for choice, gamma in self.supernet.gammas().items()
        }
        joins = {name_cell(cell): {"one": one, "both": both} for cell, (one, both) in self.supernet.joins().items()}
        return {
            "alpha": {
                name_cell(cell): dict(zip(space.operations, alpha, strict=True)) for cell, alpha in alphas.items()
            },
            "beta": {name_cell(cell): {"finer": finer, "same": same} for cell, (finer, same) in betas.items()},
            **({"gamma": gammas} if gammas else {}),
            **({"join": joins} if joins else {}),
            "paths": path_chances(space, betas),
        }
