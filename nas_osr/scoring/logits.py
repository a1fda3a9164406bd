"""Rules that read the logits alone: maximum softmax probability, maximum logit, energy. All in float64."""

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

    def knownness(self, logits: Tensor) -> Tensor:
        ordered = logits.sort(dim=1, descending=True).values
        others = torch.logsumexp(ordered[:, 1:] - ordered[:, :1], dim=1)
        return -torch.logaddexp(torch.zeros_like(others), others)


class MLS(LogitRule):
    """Maximum logit score (Vaze et al. 2022)."""

    name = "mls"

    def knownness(self, logits: Tensor) -> Tensor:
        return logits.max(dim=1).values


class Energy(LogitRule):
    """Negative free energy at temperature 1 (Liu et al. 2020): log sum exp of the logits."""

    name = "energy"

    def knownness(self, logits: Tensor) -> Tensor:
        return torch.logsumexp(logits, dim=1)
