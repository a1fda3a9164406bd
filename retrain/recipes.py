"""Recipes: the optimiser, schedule and augmentation of a retraining. Free of torch until an optimiser is made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nas_osr.errors import UserError
from nas_osr.plugins import make_config

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Recipe:
    """Stochastic gradient descent with momentum on loss / loss_scale, where the objective states its loss scale.

    Attributes:
        learning_rate: the peak.
        momentum: in [0, 1).
        nesterov: Nesterov's form of momentum.
        weight_decay: L2 decay, coupled to the learning rate.
        schedule: `exponential` multiplies by `decay` each epoch; `triangle` rises over the share `rise` of the
            training and falls to zero.
        decay: factor of the exponential schedule.
        rise: share of the training before the peak of the triangle.
        clip: largest gradient norm; 0 is off.
        scaled: whether the loss is divided by the objective's loss scale.
        augmentation: recipe for training images: search, crop_flip or none.
    """

    learning_rate: float
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    schedule: str = "exponential"
    decay: float = 0.992
    rise: float = 0.2
    clip: float = 0.0
    scaled: bool = False
    augmentation: str = "search"

    def __post_init__(self) -> None:
        if self.schedule not in ("exponential", "triangle"):
            raise UserError(f"recipe: schedule must be exponential or triangle, got {self.schedule!r}")
        if not self.learning_rate > 0 or not 0 <= self.momentum < 1 or self.weight_decay < 0 or self.clip < 0:
            raise UserError("recipe: learning_rate > 0, 0 <= momentum < 1, weight_decay >= 0 and clip >= 0 are needed")
        if not 0 < self.rise < 1 or not 0 < self.decay <= 1:
            raise UserError("recipe: rise must lie between 0 and 1, and decay in (0, 1]")

    def factor(self, epochs: int) -> Callable[[float], float]:
        """The schedule over `epochs` epochs: position in epochs -> factor on the learning rate."""

        def exponential(position: float) -> float:
            return self.decay ** int(position)

        def triangle(position: float) -> float:
            share = position / epochs
            return (share / self.rise + 1e-3) if share < self.rise else (1.0 - share) / (1.0 - self.rise)

        return exponential if self.schedule == "exponential" else triangle

    def make_optimizer(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser of one player."""
        import torch

        return torch.optim.SGD(
            parameters,
            lr=self.learning_rate,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
        )


RECIPES: dict[str, Mapping[str, Any]] = {
    # NAS-OSR, retraining: SGD 5e-4, momentum .9, decay 5e-4, times .992 an epoch
    "paper": {"learning_rate": 5e-4, "clip": 5.0},
    # a short schedule: large peak, Nesterov momentum, light augmentation
    "fast": {
        "learning_rate": 0.2,
        "nesterov": True,
        "schedule": "triangle",
        "clip": 5.0,
        "scaled": True,
        "augmentation": "crop_flip",
    },
}


def make_recipe(name: str, settings: Mapping[str, Any]) -> Recipe:
    """The recipe of this name with the user's settings; UserError on an unknown name or setting."""
    if name not in RECIPES:
        raise UserError(f"unknown recipe {name!r}: choose one of {', '.join(RECIPES)}")
    defaults = Recipe(**RECIPES[name])
    return make_config(f"recipe {name}", Recipe, {**vars(defaults), **settings})
