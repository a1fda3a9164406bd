"""Side tasks that teach a network to see orientation beside its objective: a head more, and a term more of the loss.

- `lorot` (Moon et al. 2022, LoRot-E): one quadrant of every training image is turned, and the head says which and how
  far, one of 16. The objective learns from the same changed images, so that there is no further pass.
- `rotpred` (Hendrycks et al. 2019): the images turned as a whole go through the network as well, and the head says how
  far. There, all four turns of an image are in every batch; here one drawn for each, in one further pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas_osr.configuration import Checked
from nas_osr.errors import UserError
from nas_osr.objectives.parts.pooling import pool, pooled_width
from nas_osr.option_docs import POSITIVE
from nas_osr.outputs import Features, FeatureShapes

TURNS = 4  # by 0, 90, 180 and 270 degrees


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig(Checked):
    """Coefficients that every objective has beside its own."""

    side_task: Literal["none", "lorot", "rotpred"] = "none"
    """what the network learns of orientation besides: `lorot` tells which quadrant of an image has been turned and how
    far, `rotpred` how far a whole image has, for a further pass."""
    side_weight: Annotated[float, POSITIVE] = 0.5
    "weight of the side task's cross-entropy."

    @property
    def idle(self) -> dict[str, str]:
        """The settings that nothing reads as the others are, each with why, as in "with side_task none"."""
        return {"side_weight": "with side_task none"} if self.side_task == "none" else {}


class SideTask(nn.Module):
    """A head on pooled features, and the objective's loss with its term.

    Attributes:
        name: what the term is called.
        answers: how many the head chooses from.
        weight: of the term.
        pooling: of the features: the objective's own where it has a choice.
        head: features [B, D] to logits [B, answers].
    """

    name: ClassVar[str]
    answers: ClassVar[int]

    def __init__(self, shapes: FeatureShapes, weight: float, pooling: str) -> None:
        super().__init__()
        self.weight, self.pooling = weight, pooling
        self.head = nn.Linear(pooled_width(shapes), self.answers)

    def terms(
        self, objective: Any, encoder: nn.Module, batch: tuple[Tensor, Tensor], progress: float | Tensor
    ) -> dict[str, Tensor]:
        """The terms of `Objective.losses` for the player `main`, and the side task's."""
        raise NotImplementedError

    def answer(self, features: Features) -> Tensor:
        """[B, answers] float32 logits."""
        return self.head(pool(features, self.pooling)).float()  # type: ignore[no-any-return]

    def term(self, features: Features, answers: Tensor) -> dict[str, Tensor]:
        """The weighted cross-entropy of answers [B] int64."""
        return {self.name: self.weight * F.cross_entropy(self.answer(features), answers)}


class LoRot(SideTask):
    """See `lorot` above."""

    name = "lorot"
    answers = 4 * TURNS

    def terms(
        self, objective: Any, encoder: nn.Module, batch: tuple[Tensor, Tensor], progress: float | Tensor
    ) -> dict[str, Tensor]:
        images, labels = batch
        answers = draw_answers(objective, images, self.answers)
        seen = Remembering(encoder)
        terms = objective.losses(seen, (turn_quadrants(images, answers), labels), "main", progress)
        assert seen.first is not None
        return {**terms, **self.term(seen.first, answers)}


class RotPred(SideTask):
    """See `rotpred` above."""

    name = "rotpred"
    answers = TURNS

    def terms(
        self, objective: Any, encoder: nn.Module, batch: tuple[Tensor, Tensor], progress: float | Tensor
    ) -> dict[str, Tensor]:
        terms = objective.losses(encoder, batch, "main", progress)
        answers = draw_answers(objective, batch[0], self.answers)
        return {**terms, **self.term(encoder(turn(batch[0], answers)), answers)}


SIDE_TASKS: dict[str, type[SideTask]] = {"lorot": LoRot, "rotpred": RotPred}


class Remembering:
    """An encoder that keeps what it returned first: an objective looks at the images that it is given before others."""

    def __init__(self, encoder: nn.Module) -> None:
        self.encoder = encoder
        self.first: Features | None = None

    def __call__(self, images: Tensor) -> Any:
        """What the encoder returns."""
        features = self.encoder(images)
        self.first = features if self.first is None else self.first
        return features

    def __getattr__(self, name: str) -> Any:
        return getattr(self.encoder, name)


def make_side_task(config: Any, objective: Any, shapes: FeatureShapes) -> SideTask | None:
    """The side task that `config` asks for, with a fresh head, for an `Objective` on maps of these shapes; or None.

    A plug-in's config may have none of these settings.

    Raises:
        UserError: the images are not square, or `lorot` would turn quadrants of images that the objective crops itself.
    """
    name = getattr(config, "side_task", "none")
    if name == "none":
        return None
    _, height, width = objective.image_shape
    if height != width:
        raise UserError(f"side_task {name}: it turns square images, not {height}x{width}: leave it out")
    if name == "lorot" and objective.makes_views:
        raise UserError(f"side_task lorot: objective {objective.name} makes views of its own: use rotpred")
    return SIDE_TASKS[name](shapes, config.side_weight, getattr(config, "pooling", "average"))


def draw_answers(objective: Any, images: Tensor, answers: int) -> Tensor:
    """[B] int64 in 0..answers-1, from torch's global generator, the same however a batch is divided among processes."""
    make: Callable[[int], Tensor] = lambda count: torch.randint(answers, (count,), device=images.device)  # noqa: E731
    return objective.draw(make, len(images))


def turn(images: Tensor, turns: Tensor) -> Tensor:
    """Square images [B, C, S, S], each turned left by turns [B] times 90 degrees."""
    turned = torch.stack([torch.rot90(images, times, (2, 3)) for times in range(TURNS)])
    chosen = turned[turns, torch.arange(len(images), device=images.device)]
    return chosen.contiguous(memory_format=torch.channels_last)


def turn_quadrants(images: Tensor, answers: Tensor) -> Tensor:
    """Square images [B, C, S, S] with one quadrant turned: quadrant answers // 4, row by row, answers % 4 times."""
    side, changed = images.shape[2] // 2, images.clone()
    for quadrant in range(4):
        rows, columns = ((slice(0, side), slice(images.shape[2] - side, None))[at] for at in divmod(quadrant, 2))
        turns = torch.where(answers // TURNS == quadrant, answers % TURNS, 0)
        changed[:, :, rows, columns] = turn(images[:, :, rows, columns], turns)
    return changed
