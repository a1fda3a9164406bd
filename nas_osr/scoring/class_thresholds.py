"""The largest logit, and a threshold for each class (Xu et al. 2023)."""

from __future__ import annotations

import torch
from torch import Tensor

from nas_osr.outputs import Outputs
from nas_osr.scoring.base import Scores, ScoringRule


class ClassThresholds(ScoringRule):
    """Images are ranked by their largest logit, and accepted by a threshold of its class.

    So that one threshold decides, knownness is that logit plus what the threshold of all correct images is above that
    of its class. The threshold of a class accepts the share `acceptance` of the known validation images of the class
    that are classified correctly. A class without one has that of all correct images (0 in the authors' code), or of
    all images where none is correct.

    Attributes:
        offsets: [N] float64, what is added to the largest logit by its class; None before `set_threshold`.
    """

    name = "class_thresholds"
    paper = "ConOSR (Xu et al. 2023)"
    needs = frozenset({"logits"})
    learned = ("offsets",)

    def set_threshold(self, outputs: Outputs, targets: Tensor) -> None:
        """Find the thresholds of all and of each class.

        Raises:
            UserError: there is no image, or a logit is not a number (the network has diverged).
        """
        assert outputs.logits is not None
        largest, labels = outputs.logits.double().max(dim=1)
        share, right = 1.0 - self.acceptance, labels == targets
        self.threshold = self.quantile(largest, share)
        if right.any():
            self.threshold = self.quantile(largest[right], share)
        self.offsets = torch.zeros(outputs.logits.shape[1], dtype=torch.float64, device=largest.device)
        for label in labels[right].unique().tolist():
            self.offsets[label] = self.threshold - self.quantile(largest[right & (labels == label)], share)

    def threshold_source(self) -> dict[str, object]:
        return {"picker": "quantile", "acceptance": self.acceptance, "of": "each class"}

    def scores(self, outputs: Outputs) -> Scores:
        assert outputs.logits is not None
        logits = outputs.logits.double()
        largest, labels = logits.max(dim=1)
        return Scores(largest + self.learnt("offsets", largest)[labels], logits, order=largest)
