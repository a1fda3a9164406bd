"""The rejection score of Class Anchor Clustering (Miller et al. 2021): distances to re-estimated anchors.

After training the anchor of a class becomes the mean logit of its correctly classified training images and, but for
digits, of their mirror images. With d the distances of an image's logits to all anchors, s = (1 - softmin(d)) * d
elementwise; the label is the class of least s, and the image is unknown where that least s is large.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nas_osr.errors import UserError
from nas_osr.outputs import Outputs
from nas_osr.scoring.base import Scores, ScoringRule, bounded


class CAC(ScoringRule):
    """Knownness is -min s, at most 0. With a single class softmin is 1, so s is 0 and every image is equally known.

    Args:
        acceptance: the share of known validation images to accept.
        alpha: length of the training anchors alpha e_j, for an objective that has no `anchors` of its own. They only
            matter for a class without a correctly classified training image.

    Attributes:
        anchors: [N, N] float64, row j the anchor of class j; None before `fit`.
    """

    name = "cac"
    paper = "CAC (Miller et al. 2021)"
    needs = frozenset({"logits"})
    learned = ("anchors",)
    fits_mirrored = True

    def __init__(self, acceptance: float = 0.95, alpha: float = 10.0) -> None:
        super().__init__(acceptance)
        if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0.0 < alpha < math.inf:
            raise UserError(f"scoring rule '{self.name}': alpha must be a number greater than 0, not {alpha!r}")
        self.alpha = float(alpha)

    def fit(self, outputs: Outputs, targets: Tensor, objective: object | None = None) -> None:
        """Re-estimate the anchors from training images without augmentation. targets: [B] int64 in 0..N-1.

        A class without a correct image keeps its row of the objective's `anchors` [N, N], and has alpha e_j without.
        """
        logits = bounded(outputs.logits)
        trained = getattr(objective, "anchors", None)
        if isinstance(trained, Tensor):
            anchors = trained.detach().to(logits, copy=True)
        else:
            anchors = self.alpha * torch.eye(logits.shape[1], dtype=logits.dtype, device=logits.device)
        right = logits.argmax(dim=1) == targets
        for label in targets[right].unique().tolist():
            anchors[label] = logits[right & (targets == label)].mean(dim=0)
        self.anchors = anchors

    def scores(self, outputs: Outputs) -> Scores:
        """-min s and -s, finite for all logits that are numbers. The class of least s is that of the nearest anchor."""
        logits = bounded(outputs.logits)
        anchors = self.learnt("anchors", logits)
        distances = torch.cdist(logits, anchors, compute_mode="donot_use_mm_for_euclid_dist")  # exact near 0
        softmin = torch.softmax(-distances, dim=1)
        # 1 - softmin would round to 0 for the nearest anchor of a confident image: there, the sum of all others
        nearest = distances.argmin(dim=1, keepdim=True)
        others = softmin.scatter(1, nearest, 0.0).sum(dim=1, keepdim=True)
        class_scores = -((1.0 - softmin).scatter(1, nearest, others) * distances)
        return Scores(class_scores.amax(dim=1), class_scores)
