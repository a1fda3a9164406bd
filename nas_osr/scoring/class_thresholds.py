"""The largest logit, and a threshold for each class (Xu et al. 2023)."""

from __future__ import annotations

import torch
from torch import Tensor

from nas_osr.outputs import Outputs
from nas_osr.scoring.base import Scores, ScoringRule


class ClassThresholds(ScoringRule):
    """Knownness is by how much the largest logit is above its class's threshold; images are ranked by the logit itself.

    The threshold of a class accepts the share `acceptance` of the known validation images of the class that are
    classified correctly. A class without one has that of all correct images (0 in the authors' code), and of all
    images where none is correct.

    Attributes:
        thresholds: [N] float64; None before `set_threshold`.
    """

    name = "class_thresholds"
    paper = "ConOSR (Xu et al. 2023)"
    needs = frozenset({"logits"})
    learned = ("thresholds",)

    def set_threshold(self, outputs: Outputs, targets: Tensor) -> None:
        """Find the classes' thresholds; the one of the knownness is 0.

        Raises:
            UserError: there is no image, or a logit is not a number (the network has diverged).
        """
        assert outputs.logits is not None
        largest, labels = outputs.logits.double().max(dim=1)
        share, right = 1.0 - self.acceptance, labels == targets
        usual = self.quantile(largest, share)
        if right.any():
            usual = self.quantile(largest[right], share)
        self.thresholds = torch.full((outputs.logits.shape[1],), usual, dtype=torch.float64, device=largest.device)
        for label in labels[right].unique().tolist():
            self.thresholds[label] = self.quantile(largest[right & (labels == label)], share)
        self.threshold = 0.0

    def threshold_source(self) -> dict[str, object]:
        return {"picker": "quantile", "acceptance": self.acceptance, "of": "each class"}

    def scores(self, outputs: Outputs) -> Scores:
        assert outputs.logits is not None
        logits = outputs.logits.double()
        largest, labels = logits.max(dim=1)
        return Scores(largest - self.learnt("thresholds", largest)[labels], logits, order=largest)
