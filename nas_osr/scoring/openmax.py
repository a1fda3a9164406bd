"""OpenMax (Bendale & Boult 2016): logits recalibrated by how extreme their distance to the class's mean logits is."""

from __future__ import annotations

import torch
from torch import Tensor

from nas_osr.outputs import Outputs
from nas_osr.scoring.base import Scores, bounded
from nas_osr.scoring.weibull import WeibullRule


class OpenMax(WeibullRule):
    """The revised logits v^_i = v_i (1 - a_i F_i(d_i)) of N classes and v^_0 = sum_i v_i a_i F_i of "unknown".

    F_i(d_i) says how extreme the distance of the logits to class i's mean logits is; see `WeibullRule`.
    a_i = (A + 1 - rank) / A for the A = min(alpha, N) largest logits and 0 for the others.

    Knownness is logsumexp(v^_1..N) - v^_0 = log((1 - P_0) / P_0), P_0 being the softmax of v^_0, which orders images as
    1 - P_0 does without saturating. The label is the argmax of the revised known logits. As for every rule, an image is
    unknown below the threshold, which known validation images set: v^_0 need not be the largest, nor is that enough.

    Attributes:
        alpha: how many of the top classes are revised, at most.
    """

    name = "openmax"
    paper = "OpenMax (Bendale & Boult 2016)"
    needs = frozenset({"logits"})

    def __init__(self, acceptance: float = 0.95, tail: int = 20, alpha: int = 10) -> None:
        super().__init__(acceptance, tail)
        self.alpha = self.check_count("alpha", alpha)

    def scores(self, outputs: Outputs) -> Scores:
        """log((1 - P_0) / P_0), and the revised logits of the known classes."""
        logits = bounded(outputs.logits)
        top = min(self.alpha, logits.shape[1])
        order = logits.argsort(dim=1, descending=True, stable=True)[:, :top]
        weights = torch.linspace(1.0, 1.0 / top, top, dtype=torch.float64, device=logits.device)
        weights = torch.zeros_like(logits).scatter(1, order, weights.expand(logits.shape[0], top))
        moved = logits * weights * self.outlier_probability(logits)
        known, unknown = logits - moved, moved.sum(dim=1)
        return Scores(torch.logsumexp(known, dim=1) - unknown, known)

    def outlier_probability(self, logits: Tensor) -> Tensor:
        """[B, N] float64 F_i(d_i) in [0, 1] of float64 logits [B, N]."""
        probability = -torch.expm1(-torch.exp(self.log_hazard(logits)))
        return torch.where(self.learnt("usable", logits), probability, 1.0)
