"""The interface of every scoring rule: fit, threshold, knownness, labels, predict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from nas_osr.errors import UserError
from nas_osr.outputs import Outputs


class ScoringRule:
    """Turns `Outputs` into labels and a knownness, and rejects images as unknown below a threshold.

    Life cycle: `fit` on known training outputs, `set_threshold` on known validation outputs, then `knownness`,
    `labels` and `predict` on anything. Subclasses set `name` and `needs`, and implement `fit` and `knownness`.

    Attributes:
        name: the registered name.
        needs: the fields of `Outputs` that the rule reads.
        threshold: images with knownness below it are unknown; None before `set_threshold`.
        acceptance: the share of known validation images to accept, in (0, 1).
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]]

    def __init__(self, acceptance: float = 0.95) -> None:
        if not isinstance(acceptance, (int, float)) or not 0.0 < acceptance < 1.0:
            raise UserError(
                f"scoring rule '{self.name}': acceptance must lie strictly between 0 and 1, not {acceptance!r}"
            )
        self.acceptance = float(acceptance)
        self.threshold: float | None = None

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

    def labels(self, outputs: Outputs) -> Tensor:
        """[B] int64, the most likely known class in 0..N-1, whether accepted or not."""
        assert outputs.logits is not None
        return outputs.logits.argmax(dim=1)

    def predict(self, outputs: Outputs) -> Tensor:
        """[B] int64: `labels`, or N (the number of known classes) where knownness is below the threshold."""
        if self.threshold is None:
            raise RuntimeError("set_threshold comes before predict")
        assert outputs.logits is not None
        labels = self.labels(outputs)
        unknown = torch.full_like(labels, outputs.logits.shape[1])
        return torch.where(self.knownness(outputs) < self.threshold, unknown, labels)

    def state_dict(self) -> dict[str, Tensor | float | int | None]:
        """What `fit` and `set_threshold` learned: tensors and plain numbers only."""
        return {"threshold": self.threshold}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.threshold = state["threshold"]

    def quantile(self, scores: Tensor, share: float) -> float:
        """The `share` quantile (linear interpolation, float64) of the scores [B] of known validation images.

        Raises:
            UserError: there is no image, or a score is not a number.
        """
        if len(scores) == 0:
            raise UserError(f"scoring rule '{self.name}': no known validation image to set the threshold on")
        value = float(torch.quantile(scores.double(), share))
        if math.isnan(value):
            raise UserError(
                f"scoring rule '{self.name}': scores of known validation images are not numbers; "
                "the network has diverged, try a lower learning rate"
            )
        return value
