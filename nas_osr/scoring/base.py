"""The interface of every scoring rule: fit, threshold, knownness, class scores, both at once, labels, predict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, final

import torch
from torch import Tensor

from nas_osr.errors import UserError
from nas_osr.outputs import Outputs


class Scores(NamedTuple):
    """What a rule says of B images: knownness [B], and class scores [B, N]; see the methods of these names."""

    knownness: Tensor
    class_scores: Tensor

    @property
    def labels(self) -> Tensor:
        """[B] int64, the most likely known class in 0..N-1, accepted or not."""
        return self.class_scores.argmax(dim=1)


class ScoringRule:
    """Turns `Outputs` into labels and a knownness, and rejects images as unknown below a threshold.

    Life cycle: `fit` on known training outputs, `set_threshold` on known validation outputs, then `knownness`,
    `class_scores`, `labels` and `predict` on anything. Subclasses set `name` and `needs`, and implement `fit` and
    `knownness`; one that does not need the logits also implements `class_scores` and sets `num_known` in `fit`. One
    whose knownness and class scores share costly work also implements `scores`. `labels` and `predict` follow.

    Attributes:
        name: the registered name.
        needs: the fields of `Outputs` that the rule reads.
        threshold: images with knownness below it are unknown; None before `set_threshold`.
        acceptance: the share of known validation images to accept, in (0, 1).
        num_known: the number of known classes N where `fit` set it; None: N is the width of the logits.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]]

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Keep `scores` equal to its parts: an inherited one gives way where a subclass brings a part of its own.

        Raises:
            UserError: the subclass overrides `labels` or `predict`, which nothing would ask.
        """
        super().__init_subclass__(**keywords)
        for method in ("labels", "predict"):
            if getattr(cls, method) is not getattr(ScoringRule, method):
                raise UserError(
                    f"scoring rule class {cls.__name__}: {method} cannot be overridden; say class_scores and "
                    "knownness, it follows from these"
                )
        bringer = {
            method: next(index for index, owner in enumerate(cls.__mro__) if method in vars(owner))
            for method in ("knownness", "class_scores", "scores")
        }
        if min(bringer["knownness"], bringer["class_scores"]) < bringer["scores"]:
            cls.scores = ScoringRule.scores  # type: ignore[method-assign]

    def __init__(self, acceptance: float = 0.95) -> None:
        if not isinstance(acceptance, (int, float)) or not 0.0 < acceptance < 1.0:
            raise UserError(
                f"scoring rule '{self.name}': acceptance must lie strictly between 0 and 1, not {acceptance!r}"
            )
        self.acceptance = float(acceptance)
        self.threshold: float | None = None
        self.num_known: int | None = None

    @property
    def learns(self) -> bool:
        """Whether `fit` does anything, so that outputs for training images have to be computed."""
        return type(self).fit is not ScoringRule.fit

    def fit(self, outputs: Outputs, targets: Tensor, objective: object | None = None) -> None:
        """Learn from known training images. targets: [B] int64 in 0..N-1. The default learns nothing."""

    def set_threshold(self, outputs: Outputs, targets: Tensor) -> None:
        """Choose the threshold that accepts the share `acceptance` of these known validation images.

        Raises:
            UserError: there is no image, or a knownness is not a number (the network has diverged).
        """
        self.threshold = self.quantile(self.knownness(outputs), 1.0 - self.acceptance)

    def knownness(self, outputs: Outputs) -> Tensor:
        """[B] float64, higher = more known."""
        raise NotImplementedError

    def class_scores(self, outputs: Outputs) -> Tensor:
        """[B, N] float64, higher = more likely that class; -inf for one that cannot be the label. Here: the logits."""
        if outputs.logits is None:
            raise RuntimeError(f"scoring rule '{self.name}' needs logits, or class_scores of its own")
        return outputs.logits.double()

    def scores(self, outputs: Outputs) -> Scores:
        """`knownness` and `class_scores` together: what evaluation asks for, once."""
        return Scores(self.knownness(outputs), self.class_scores(outputs))

    @final
    def labels(self, outputs: Outputs) -> Tensor:
        """[B] int64, the most likely known class in 0..N-1, accepted or not: the one with the largest class score."""
        return self.class_scores(outputs).argmax(dim=1)

    @final
    def predict(self, outputs: Outputs) -> Tensor:
        """[B] int64: `labels`, or N (the number of known classes) where knownness is below the threshold."""
        return self.decide(self.scores(outputs))

    @final
    def decide(self, scores: Scores) -> Tensor:
        """`predict` of images whose scores are there already."""
        if self.threshold is None:
            raise RuntimeError("set_threshold comes before predict")
        unknown = scores.class_scores.shape[1]
        return scores.labels.masked_fill(scores.knownness < self.threshold, unknown)

    def count_known(self, outputs: Outputs, targets: Tensor | None = None, objective: object | None = None) -> int:
        """N: what `fit` set, else the width of the logits, the objective's `num_classes`, or the largest target + 1."""
        if self.num_known is not None:
            return self.num_known
        if outputs.logits is not None:
            return outputs.logits.shape[1]
        classes = getattr(objective, "num_classes", None)
        if isinstance(classes, int):
            return classes
        if targets is None or len(targets) == 0:
            raise RuntimeError(f"scoring rule '{self.name}': without logits, fit comes first and sets num_known")
        return int(targets.max()) + 1

    def state_dict(self) -> dict[str, Any]:
        """What `fit` and `set_threshold` learned: tensors, plain numbers, words and None only."""
        return {"threshold": self.threshold, "num_known": self.num_known}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.threshold, self.num_known = state["threshold"], state["num_known"]

    def quantile(self, scores: Tensor, share: float) -> float:
        """The `share` quantile (linear interpolation, float64) of the scores [B] of known validation images.

        Raises:
            UserError: there is no image, or a score is not a number.
        """
        if len(scores) == 0:
            raise UserError(f"scoring rule '{self.name}': no known validation image to set the threshold on")
        value = float(torch.quantile(scores.double(), share))
        if math.isnan(value):
            raise self.diverged("scores of known validation images")
        return value

    def diverged(self, what: str) -> UserError:
        """The error to raise where `what` holds something that is not a number."""
        return UserError(
            f"scoring rule '{self.name}': {what} are not numbers; the network has diverged, try a lower learning rate"
        )

    def check_count(self, setting: str, value: object) -> int:
        """A setting that counts something, or UserError unless it is a whole number of at least 1."""
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(
                f"scoring rule '{self.name}': {setting} must be a whole number of at least 1, not {value!r}"
            )
        return value


#: Larger values count as this: squares, and sums over images, stay finite in float64.
VALUE_LIMIT = 1e100


def bounded(values: Tensor | None) -> Tensor:
    """A copy of a field of `Outputs` that a rule needs, as float64 within ±`VALUE_LIMIT`."""
    assert values is not None
    return values.to(torch.float64, copy=True).clamp_(-VALUE_LIMIT, VALUE_LIMIT)  # one copy, not two
