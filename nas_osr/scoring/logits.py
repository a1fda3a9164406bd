"""Rules that read the logits alone: maximum softmax probability, maximum logit, energy, entropy. All in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from nas_osr.outputs import Outputs
from nas_osr.scoring.base import Scores, ScoringRule


class LogitRule(ScoringRule):
    """A rule whose knownness is a function of the logits [B, N]; there is nothing to fit."""

    needs = frozenset({"logits"})

    def scores(self, outputs: Outputs) -> Scores:
        """The rule's knownness and the logits."""
        assert outputs.logits is not None
        logits = outputs.logits.double()
        return Scores(self.knownness(logits), logits)

    def knownness(self, logits: Tensor) -> Tensor:
        """[B] higher = more known, of float64 logits [B, N]; finite for finite logits of float32 or less."""
        raise NotImplementedError


class MSP(LogitRule):
    """Maximum softmax probability (Hendrycks & Gimpel 2017), as its logarithm, in (-log N, 0].

    With the other logits' distances to the largest, log p_max = -log(1 + sum exp(-distance)): this keeps confident
    images apart up to distances of 700, where the plain softmax is 1.
    """

    name = "msp"
    paper = "MSP (Hendrycks & Gimpel 2017)"

    def knownness(self, logits: Tensor) -> Tensor:
        ordered = logits.sort(dim=1, descending=True).values
        others = torch.logsumexp(ordered[:, 1:] - ordered[:, :1], dim=1)
        return -torch.logaddexp(torch.zeros_like(others), others)


class MLS(LogitRule):
    """Maximum logit score (Vaze et al. 2022)."""

    name = "mls"
    paper = "MLS (Vaze et al. 2022)"

    def knownness(self, logits: Tensor) -> Tensor:
        return logits.max(dim=1).values


class Energy(LogitRule):
    """Negative free energy at temperature 1 (Liu et al. 2020): log sum exp of the logits."""

    name = "energy"
    paper = "Energy (Liu et al. 2020)"

    def knownness(self, logits: Tensor) -> Tensor:
        return torch.logsumexp(logits, dim=1)


class GEN(LogitRule):
    """Generalised entropy (Liu et al. 2023, eq. 5), negated: -sum_j p_j^gamma (1 - p_j)^gamma, in [-M, 0].

    p are the M largest softmax probabilities; p and 1 - p come from logarithms, which keeps confident images apart.

    Args:
        acceptance: the share of known validation images to accept.
        gamma: the exponent, in (0, 1); the paper's .1.
        top: M, how many of the largest probabilities count; the paper's 100.
    """

    name = "gen"
    paper = "GEN (Liu et al. 2023)"

    def __init__(self, acceptance: float = 0.95, gamma: float = 0.1, top: int = 100) -> None:
        super().__init__(acceptance)
        self.gamma, self.top = self.check_share("gamma", gamma), self.check_count("top", top)

    def knownness(self, logits: Tensor) -> Tensor:
        log_p = torch.log_softmax(logits, dim=1).sort(dim=1, descending=True).values
        # 1 - p of the largest would round to 0: there, the sum of the others
        largest = torch.logsumexp(log_p[:, 1:], dim=1, keepdim=True)
        log_rest = torch.cat([largest, torch.log1p(-log_p[:, 1:].exp())], dim=1)
        return -(self.gamma * (log_p + log_rest)[:, : self.top]).exp().sum(dim=1)
