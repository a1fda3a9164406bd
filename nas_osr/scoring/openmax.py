"""OpenMax (Bendale & Boult 2016): logits recalibrated by how extreme their distance to the class's mean logits is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from nas_osr.errors import UserError
from nas_osr.outputs import Outputs
from nas_osr.scoring.base import ScoringRule, bounded

#: Smaller distances count as this, so that logarithms are finite.
DISTANCE_FLOOR = 1e-100
#: In a tail, distances below this share of the largest count as it.
TAIL_FLOOR = 1e-12
#: The Weibull shapes that are looked at. The largest stands for constant distances: F is a step there.
SHAPES = (1e-3, 1e3)


class OpenMax(ScoringRule):
    """The revised logits v^_i = v_i (1 - a_i F_i(d_i)) of N classes and v^_0 = sum_i v_i a_i F_i of "unknown".

    d_i is the Euclidean distance of the logits to the mean logits of class i's correctly classified training images.
    F_i is a Weibull distribution function with location 0, fitted by maximum likelihood to the `tail` largest of their
    own distances. (libMR puts the location 1 below the smallest of the tail, which depends on the unit of the logits.)
    a_i = (A + 1 - rank) / A for the A = min(alpha, N) largest logits and 0 for the others.

    Knownness is logsumexp(v^_1..N) - v^_0 = log((1 - P_0) / P_0), P_0 being the softmax of v^_0, which orders images as
    1 - P_0 does without saturating. The label is the argmax of the revised known logits. As for every rule, an image is
    unknown below the threshold, which known validation images set: v^_0 need not be the largest, nor is that enough.

    A class without a correct training image uses all of its images; F is 1 for one without any. A class with fewer
    images than `tail` uses what it has. Where the tail is constant (one image, say), F is nearly a step at that value.

    Attributes:
        tail: how many of the largest distances the Weibull distributions are fitted to.
        alpha: how many of the top classes are revised, at most.
        means: [N, N] float64 mean logits per class.
        shapes, scales: [N] float64 Weibull parameters.
        usable: [N] bool, whether a class had any training image.
    """

    name: ClassVar[str] = "openmax"
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    def __init__(self, acceptance: float = 0.95, tail: int = 20, alpha: int = 10) -> None:
        super().__init__(acceptance)
        self.tail = self.check_count("tail", tail)
        self.alpha = self.check_count("alpha", alpha)
        self.means: Tensor | None = None
        self.shapes: Tensor | None = None
        self.scales: Tensor | None = None
        self.usable: Tensor | None = None

    def fit(self, outputs: Outputs, targets: Tensor, objective: object | None = None) -> None:
        """Learn means and Weibull distributions. targets: [B] int64 in 0..N-1.

        Raises:
            UserError: there is no image, or a logit is not a number (the network has diverged).
        """
        logits = bounded(outputs.logits)
        if len(logits) == 0:
            raise UserError(f"scoring rule '{self.name}': no known training image to fit to")
        if logits.isnan().any():
            raise self.diverged("logits of known training images")
        num_known = self.num_known = logits.shape[1]
        right = logits.argmax(dim=1) == targets
        self.means = logits.new_zeros(num_known, num_known)
        self.shapes, self.scales = logits.new_ones(num_known), logits.new_ones(num_known)
        self.usable = torch.zeros(num_known, dtype=torch.bool, device=logits.device)
        for label in range(num_known):
            members = targets == label
            chosen = members & right
            own = logits[chosen if chosen.any() else members]
            if len(own) > 0:
                self.means[label] = own.mean(dim=0)
                distances = (own - self.means[label]).norm(dim=1)
                tail = distances.topk(min(self.tail, len(distances))).values
                self.shapes[label], self.scales[label] = fit_weibull(tail.cpu().numpy())
                self.usable[label] = True

    def knownness(self, outputs: Outputs) -> Tensor:
        """[B] float64: log((1 - P_0) / P_0)."""
        known, unknown = self.revised(outputs)
        return torch.logsumexp(known, dim=1) - unknown

    def labels(self, outputs: Outputs) -> Tensor:
        """[B] int64: argmax of the revised logits of the known classes."""
        return self.revised(outputs)[0].argmax(dim=1)

    def revised(self, outputs: Outputs) -> tuple[Tensor, Tensor]:
        """The revised logits: [B, N] of the known classes and [B] of "unknown", float64."""
        logits = bounded(outputs.logits)
        top = min(self.alpha, logits.shape[1])
        order = logits.argsort(dim=1, descending=True, stable=True)[:, :top]
        weights = torch.linspace(1.0, 1.0 / top, top, dtype=torch.float64, device=logits.device)
        weights = torch.zeros_like(logits).scatter(1, order, weights.expand(len(logits), top))
        moved = logits * weights * self.outlier_probability(logits)
        return logits - moved, moved.sum(dim=1)

    def outlier_probability(self, logits: Tensor) -> Tensor:
        """[B, N] float64 F_i(d_i) in [0, 1] of float64 logits [B, N]."""
        if self.means is None or self.shapes is None or self.scales is None or self.usable is None:
            raise RuntimeError("fit comes before the scores")
        device = logits.device
        distances = torch.cdist(logits, self.means.to(device), compute_mode="donot_use_mm_for_euclid_dist")
        ratio = distances.clamp_min(DISTANCE_FLOOR).log() - self.scales.to(device).log()
        probability = -torch.expm1(-torch.exp(self.shapes.to(device) * ratio))
        return torch.where(self.usable.to(device), probability, 1.0)

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "means": self.means,
            "shapes": self.shapes,
            "scales": self.scales,
            "usable": self.usable,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.means, self.shapes = state["means"], state["shapes"]
        self.scales, self.usable = state["scales"], state["usable"]


def fit_weibull(distances: np.ndarray) -> tuple[float, float]:
    """Shape and scale of the Weibull distribution with location 0 of highest likelihood for distances [n] >= 0.

    The shape c solves sum(x^c log x) / sum(x^c) - 1 / c = mean(log x), whose left side increases with c; the scale is
    mean(x^c)^(1/c). The shape is kept within `SHAPES`.
    """
    from scipy.optimize import brentq

    largest = max(float(distances.max()), DISTANCE_FLOOR)
    logarithms = np.log(np.maximum(distances / largest, TAIL_FLOOR))
    logarithms -= logarithms.max()  # 0 already, unless all distances are below the floor

    def excess(shape: float) -> float:
        powers = np.exp(shape * logarithms)
        return float((powers * logarithms).sum() / powers.sum() - 1.0 / shape - logarithms.mean())

    low, high = SHAPES
    shape = high if excess(high) <= 0 else float(brentq(excess, low, high, xtol=1e-12, rtol=1e-12))
    return shape, largest * float(np.exp(shape * logarithms).mean() ** (1.0 / shape))
