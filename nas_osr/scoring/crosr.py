"""CROSR's rule (Yoshihashi et al. 2019): how extreme logits and latents together are for the predicted class.

The latents of reconstruction see what classification throws away. With v = [logits, latents], an image's class j by its
logits, and F_j the Weibull distribution of the largest distances of v to the class's mean, the probability of being
known is 1 - F_j(d_j), and the image is unknown where that is below 0.5.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from nas_osr.outputs import Outputs
from nas_osr.scoring.base import VALUE_LIMIT, Scores, bounded
from nas_osr.scoring.weibull import WeibullRule


class CROSR(WeibullRule):
    """Knownness is -log(-log P) of P = 1 - F_j(d_j) for the predicted class j; see `WeibullRule` for F.

    It orders images as P does, and stays apart where P rounds to 0 or 1. An image of a class without any training image
    has the least knownness, -1e100. The label is the argmax of the logits.

    The tail is at most a tenth of a class's images: P is 0.5 near its median, which then rejects about a twentieth of
    them or less (of a very small class, one image). A longer tail would be no tail.

    Args:
        acceptance: the share of known validation images to accept, where `probability` is None.
        tail: how many of the largest distances the Weibull distributions are fitted to.
        probability: images with a smaller P are unknown; in (0, 1). The paper's comparison in GMVAE has 0.5. None lets
            known validation images set the threshold, as for other rules.
    """

    name = "crosr"
    paper = "CROSR (Yoshihashi et al. 2019)"
    needs = frozenset({"logits", "embedding"})
    tail_share = 0.1

    def __init__(self, acceptance: float = 0.95, tail: int = 20, probability: float | None = 0.5) -> None:
        super().__init__(acceptance, tail)
        self.probability = None if probability is None else self.check_share("probability", probability)

    def features(self, outputs: Outputs) -> Tensor:
        """[B, N + D] float64: logits, then latents."""
        assert outputs.logits is not None and outputs.embedding is not None
        return bounded(torch.cat([outputs.logits, outputs.embedding], dim=1))

    def set_threshold(self, outputs: Outputs, targets: Tensor) -> None:
        """Put the threshold where P is `probability`, or else at the quantile of these known validation images.

        Raises:
            UserError: there is no image, or a knownness is not a number (the network has diverged).
        """
        quantile = self.quantile(self.scores(outputs).knownness, 1.0 - self.acceptance)
        self.threshold = quantile if self.probability is None else -math.log(-math.log(self.probability))

    def threshold_source(self) -> dict[str, Any]:
        if self.probability is None:
            return {"picker": "quantile", "acceptance": self.acceptance}
        return {"picker": "probability", "probability": self.probability}

    def scores(self, outputs: Outputs) -> Scores:
        """-log(-log P), and the logits."""
        hazard = self.log_hazard(self.features(outputs))
        assert outputs.logits is not None
        hazard = torch.where(self.learnt("usable", hazard), hazard, VALUE_LIMIT)
        logits = outputs.logits.double()
        return Scores(-hazard.gather(1, logits.argmax(dim=1, keepdim=True)).squeeze(1), logits)
