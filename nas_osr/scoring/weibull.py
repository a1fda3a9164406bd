"""What OpenMax and CROSR share: for each class, how extreme a distance to the class's mean is."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from nas_osr.errors import UserError
from nas_osr.outputs import Outputs
from nas_osr.scoring.base import ScoringRule, bounded, members_by_class

#: Smaller distances count as this, so that logarithms are finite.
DISTANCE_FLOOR = 1e-100
#: In a tail, distances below this share of the largest count as it.
TAIL_FLOOR = 1e-12
#: The Weibull shapes that are looked at. The largest stands for constant distances: F is a step there.
SHAPES = (1e-3, 1e3)


class WeibullRule(ScoringRule):
    """A rule with a Weibull distribution of every class's largest distances (Bendale & Boult 2016).

    d_i is the Euclidean distance of an image's features to the mean features of class i's correctly classified training
    images. F_i is a Weibull distribution function with location 0, fitted by maximum likelihood to the `tail` largest
    of their own distances. (libMR puts the location 1 below the smallest of the tail, which depends on the unit of the
    features.)

    A class without a correct training image uses all of its images; F is 1 for one without any. Where the tail is
    constant (one image, say), F is nearly a step at that value.

    Attributes:
        tail: how many of the largest distances the Weibull distributions are fitted to.
        tail_share: the tail of a small class is this share of its distances, rounded up.
        means: [N, D] float64 mean features per class.
        shapes, scales: [N] float64 Weibull parameters.
        usable: [N] bool, whether a class had any training image.
    """

    learned = ("means", "shapes", "scales", "usable")
    tail_share: ClassVar[float] = 1.0

    def __init__(self, acceptance: float = 0.95, tail: int = 20) -> None:
        super().__init__(acceptance)
        self.tail = self.check_count("tail", tail)

    def features(self, outputs: Outputs) -> Tensor:
        """[B, D] float64, what distances are measured in. Here: the logits."""
        return bounded(outputs.logits)

    def fit(self, outputs: Outputs, targets: Tensor, objective: object | None = None) -> None:
        """Learn means and Weibull distributions. targets: [B] int64 in 0..N-1.

        Raises:
            UserError: there is no image, or something is not a number (the network has diverged).
        """
        outputs = Outputs(**{field: getattr(outputs, field) for field in self.needs})  # no other field is selected from
        logits = bounded(outputs.logits)
        if len(logits) == 0:
            raise UserError(f"scoring rule '{self.name}': no known training image to fit to")
        if any(getattr(outputs, field).isnan().any() for field in self.needs):
            raise self.diverged(f"{' and '.join(sorted(self.needs, reverse=True))} of known training images")
        num_known = logits.shape[1]
        self.means = logits.new_zeros(num_known, self.features(outputs[:0]).shape[1])
        self.shapes, self.scales = logits.new_ones(num_known), logits.new_ones(num_known)
        self.usable = torch.zeros(num_known, dtype=torch.bool, device=logits.device)
        for label, members in members_by_class(logits, targets):
            own = self.features(outputs[members])
            self.means[label] = own.mean(dim=0)
            distances = (own - self.means[label]).norm(dim=1)
            tail = distances.topk(min(self.tail, math.ceil(self.tail_share * len(distances)))).values
            self.shapes[label], self.scales[label] = fit_weibull(tail.cpu().numpy())
            self.usable[label] = True

    def log_hazard(self, features: Tensor) -> Tensor:
        """[B, N] float64 log(-log(1 - F_i(d_i))), which grows with d_i and never saturates.

        It is finite where the features [B, D] are numbers, whatever `usable` says.
        """
        means, shapes, scales = (self.learnt(name, features) for name in ("means", "shapes", "scales"))
        distances = torch.cdist(features, means, compute_mode="donot_use_mm_for_euclid_dist")
        return shapes * (distances.clamp_min(DISTANCE_FLOOR).log() - scales.log())


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
