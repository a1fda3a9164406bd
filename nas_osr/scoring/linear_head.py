"""Rules on the features under the last linear layer, logits = W f + b: how that layer is found, and three rules."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from nas_osr.errors import UserError
from nas_osr.objectives.base import Objective
from nas_osr.outputs import Outputs
from nas_osr.scoring.base import Scores, ScoringRule, bounded

#: What may be left of logits that a linear layer explains, as a share of their spread: more than rounding to 16 bits.
LEFT_OVER = 1e-2


class HeadRule(ScoringRule):
    """A rule that reads the last layer, too; class scores are the logits.

    The objective says what the layer is; without one (a user's arrays) it is found by least squares.

    Attributes:
        weight, bias: [N, D] and [N] float64, W and b; None before `fit`.
    """

    needs = frozenset({"logits", "embedding"})
    needs_head = True
    learned: ClassVar[tuple[str, ...]] = ("weight", "bias")

    def fit(self, outputs: Outputs, targets: Tensor, objective: object | None = None) -> None:
        """Take over the last layer.

        Raises:
            UserError: there is no objective, and the logits are not a linear function of the embedding, or there are
                too few images to tell.
        """
        features, logits = bounded(outputs.embedding), bounded(outputs.logits)
        if isinstance(objective, Objective):
            weight, bias = objective.linear_head()
            self.weight, self.bias = weight.detach().to(logits), bias.detach().to(logits)
        else:
            self.weight, self.bias = self.find_layer(features, logits)

    def find_layer(self, features: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """W and b of least squares from features [M, D] and logits [M, N]. Raises UserError, see `fit`."""
        if len(features) <= features.shape[1]:
            raise UserError(
                f"scoring rule '{self.name}': {len(features)} training images do not show how {features.shape[1]} "
                "features become logits; give more images than features"
            )
        centre, middle = features.mean(dim=0), logits.mean(dim=0)
        solution = torch.linalg.lstsq((features - centre).cpu(), (logits - middle).cpu(), driver="gelsd").solution
        weight = solution.T.to(logits)
        left = (logits - middle - (features - centre) @ weight.T).square().mean().sqrt()
        if not left <= LEFT_OVER * (logits - middle).square().mean().sqrt():
            raise UserError(
                f"scoring rule '{self.name}': the logits are no linear function of the embedding; give the features "
                "that the last layer reads"
            )
        return weight, middle - weight @ centre

    def scores(self, outputs: Outputs) -> Scores:
        """The rule's knownness and the logits."""
        logits = bounded(outputs.logits)
        return Scores(self.knownness(bounded(outputs.embedding), logits), logits)

    def knownness(self, features: Tensor, logits: Tensor) -> Tensor:
        """[B] higher = more known, of features [B, D] and logits [B, N], float64."""
        raise NotImplementedError


class FDBD(HeadRule):
    """Distance to the decision boundaries (Liu & Qin 2024, eq. 6), at least 0.

    The mean over all other classes c of |z_y - z_c| / ||w_y - w_c||, y the predicted class and z the logits, divided by
    the distance of the features to the mean training features.

    Attributes:
        mean: [D] float64 mean of the training features.
        gaps: [N, N] float64 ||w_a - w_b||, 1 where a = b.
    """

    name = "fdbd"
    paper = "fDBD (Liu & Qin 2024)"
    needs = frozenset({"logits", "embedding"})
    needs_head = True
    learned = ("weight", "bias", "mean", "gaps")

    def fit(self, outputs: Outputs, targets: Tensor, objective: object | None = None) -> None:
        """Learn the layer and the mean. Raises UserError: see `HeadRule.fit`."""
        super().fit(outputs, targets, objective)
        self.mean = bounded(outputs.embedding).mean(dim=0)
        self.gaps = torch.stack([(row - self.weight).norm(dim=1) for row in self.weight])
        self.gaps.fill_diagonal_(1.0).clamp_min_(torch.finfo(torch.float64).tiny)

    def knownness(self, features: Tensor, logits: Tensor) -> Tensor:
        largest, nearest = logits.max(dim=1, keepdim=True)
        gaps = self.learnt("gaps", features)[nearest.squeeze(1)]
        total = ((largest - logits) / gaps).sum(dim=1) / max(1, logits.shape[1] - 1)
        away = (features - self.learnt("mean", features)).norm(dim=1)
        return total / away.clamp_min(torch.finfo(torch.float64).eps)


class GradNorm(HeadRule):
    """Size of the last layer's gradient (Huang et al. 2021, eq. 4 and 7), at least 0.

    The 1-norm of the gradient with respect to W of the cross-entropy between the uniform distribution and the softmax
    p. That gradient is (p - 1/N) f^T, and its norm sum_j |p_j - 1/N| times the 1-norm of f.
    """

    name = "gradnorm"
    paper = "GradNorm (Huang et al. 2021)"
    needs = frozenset({"logits", "embedding"})
    needs_head = True

    def knownness(self, features: Tensor, logits: Tensor) -> Tensor:
        away = (torch.softmax(logits, dim=1) - 1.0 / logits.shape[1]).abs().sum(dim=1)
        return away * features.abs().sum(dim=1)


class FeatureNorm(ScoringRule):
    """The length of the features (Dhamija et al. 2018; Vaze et al. 2022, sec. 4): short ones are less known.

    The logits give the class. It says nothing where an objective makes features of equal length.
    """

    name = "feature_norm"
    paper = "feature norm (Dhamija et al. 2018)"
    needs = frozenset({"logits", "embedding"})

    def scores(self, outputs: Outputs) -> Scores:
        """The 2-norm, and the logits."""
        return Scores(bounded(outputs.embedding).norm(dim=1), bounded(outputs.logits))
