"""Rules that change the features under the last layer and take the energy of the logits that it then gives.

The papers have features of a ReLU network, which are not negative. Where an activation lets negative ones through, they
count as 0 in the sums that set a scale, which then stays what it is in the papers.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nas_osr.configuration import check_choice
from nas_osr.outputs import Outputs
from nas_osr.scoring.base import bounded
from nas_osr.scoring.linear_head import HeadRule

VARIANTS = ("s", "b", "p")


class ShapingRule(HeadRule):
    """log sum exp of W g(f) + b for a change g of the features.

    Attributes:
        share: of the features, see each rule.
    """

    def __init__(self, acceptance: float = 0.95, share: float = 0.65) -> None:
        super().__init__(acceptance)
        self.share = self.check_share("share", share)

    def knownness(self, features: Tensor, logits: Tensor) -> Tensor:
        weight, bias = self.learnt("weight", features), self.learnt("bias", features)
        return torch.logsumexp(self.shape(features) @ weight.T + bias, dim=1)

    def shape(self, features: Tensor) -> Tensor:
        """The changed features [B, D], a new tensor."""
        raise NotImplementedError

    def strongest(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Values and positions [B, k] of the largest 1 - `share` of each image's features, one at least."""
        kept = max(1, features.shape[1] - round(self.share * features.shape[1]))
        found = features.topk(kept, dim=1)
        return found.values, found.indices

    def sharpness(self, features: Tensor) -> Tensor:
        """[B, 1] exp(s1 / s2) of the sums s1 of all features and s2 of the strongest; e where there is none above 0."""
        strongest = self.strongest(features)[0].clamp_min(0).sum(dim=1, keepdim=True)
        ratio = features.clamp_min(0).sum(dim=1, keepdim=True) / strongest.clamp_min(torch.finfo(torch.float64).tiny)
        return torch.where(strongest > 0, ratio, 1.0).exp()


class ReAct(ShapingRule):
    """Features above c count as c (Sun et al. 2021, eq. 2).

    Attributes:
        share: c is this quantile of all training features; the paper's .9.
        limit: c; None before `fit`.
    """

    name = "react"
    paper = "ReAct (Sun et al. 2021)"
    needs = frozenset({"logits", "embedding"})
    needs_head = True
    learned = ("weight", "bias", "limit")

    limit: float | None

    def __init__(self, acceptance: float = 0.95, share: float = 0.9) -> None:
        super().__init__(acceptance, share)

    def fit(self, outputs: Outputs, targets: Tensor, objective: object | None = None) -> None:
        """Learn the layer and c. Raises UserError: see `HeadRule.fit`."""
        super().fit(outputs, targets, objective)
        self.limit = float(np.quantile(bounded(outputs.embedding).cpu().numpy(), self.share))  # torch's has a limit

    def shape(self, features: Tensor) -> Tensor:
        if self.limit is None:
            raise RuntimeError("fit comes before the scores")
        return features.clamp_max(self.limit)


class ASH(ShapingRule):
    """Each image's weakest features become 0, the others are changed (Djurisic et al. 2023, algorithms 1 to 3).

    Args:
        acceptance: the share of known validation images to accept.
        share: of an image's features that become 0. The authors' functions have .65, their configuration for CIFAR-10
            .9 with variant `s`.
        variant: what happens to the others: `s` scales them by exp(s1 / s2), s1 and s2 the sums before and after; `b`
            makes all of them s1 / their number; `p` leaves them.
    """

    name = "ash"
    paper = "ASH (Djurisic et al. 2023)"
    needs = frozenset({"logits", "embedding"})
    needs_head = True

    def __init__(self, acceptance: float = 0.95, share: float = 0.65, variant: str = "s") -> None:
        super().__init__(acceptance, share)
        self.variant = variant
        check_choice(self, "variant", VARIANTS, where=f"scoring rule '{self.name}': ")

    def shape(self, features: Tensor) -> Tensor:
        values, places = self.strongest(features)
        if self.variant == "b":
            values = (features.clamp_min(0).sum(dim=1, keepdim=True) / values.shape[1]).expand_as(values)
        pruned = torch.zeros_like(features).scatter(1, places, values)
        return pruned * self.sharpness(features) if self.variant == "s" else pruned


class SCALE(ShapingRule):
    """All features times exp(s1 / s2), s1 their sum and s2 that of the strongest (Xu et al. 2024, eq. 5 and 6).

    Attributes:
        share: of an image's features that are left out of s2; .65 as `ASH` has it here, .85 in the authors'
            configuration.
    """

    name = "scale"
    paper = "SCALE (Xu et al. 2024)"
    needs = frozenset({"logits", "embedding"})
    needs_head = True

    def shape(self, features: Tensor) -> Tensor:
        return features * self.sharpness(features)
