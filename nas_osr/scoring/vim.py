"""Virtual-logit matching (Wang et al. 2022): what of the features lies outside the subspace of known images."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from nas_osr.errors import UserError
from nas_osr.outputs import Outputs
from nas_osr.scoring.base import bounded
from nas_osr.scoring.linear_head import HeadRule

logger = logging.getLogger(__name__)
#: A mean residual under this share of the features' mean length is rounding: there is nothing outside the subspace.
NO_RESIDUAL = 1e-9


class ViM(HeadRule):
    """The energy of the logits minus the virtual logit alpha ||R^T (f - o)|| (Wang et al. 2022, eq. 3 and 7).

    The origin o = -pinv(W) b, R are the directions outside the first `dimension` principal ones of f - o over training
    images (about the origin, not about their mean), and alpha brings the virtual logit to the mean largest logit there.
    Ranks as the paper's softmax of the virtual logit does.

    Args:
        acceptance: the share of known validation images to accept.
        dimension: of the principal subspace; None: half of the features, near the paper's 1,000 of 2,048.

    Attributes:
        origin: [D] float64 o.
        residual: [D, D - dimension] float64, R times alpha.
    """

    name = "vim"
    paper = "ViM (Wang et al. 2022)"
    needs = frozenset({"logits", "embedding"})
    needs_head = True
    learned = ("weight", "bias", "origin", "residual")

    def __init__(self, acceptance: float = 0.95, dimension: int | None = None) -> None:
        super().__init__(acceptance)
        self.dimension = None if dimension is None else self.check_count("dimension", dimension)

    def fit(self, outputs: Outputs, targets: Tensor, objective: object | None = None) -> None:
        """Learn the layer, the subspace and alpha. Raises UserError: see `HeadRule.fit`, or no direction is left."""
        super().fit(outputs, targets, objective)
        features, logits = bounded(outputs.embedding), bounded(outputs.logits)
        dimension = self.dimension or features.shape[1] // 2
        if dimension >= features.shape[1]:
            raise UserError(f"scoring rule '{self.name}': dimension must be under {features.shape[1]}, the features")
        self.origin = -(torch.linalg.pinv(self.weight) @ self.bias)
        centred = features - self.origin
        directions = torch.linalg.eigh(centred.T @ centred).eigenvectors  # the least variance first
        residual = directions[:, : features.shape[1] - dimension]
        mean, size = (centred @ residual).norm(dim=1).mean(), centred.norm(dim=1).mean()
        if mean <= NO_RESIDUAL * size:
            logger.warning(
                "rule %s: features have no more than %d directions: it is energy alone", self.name, dimension
            )
            self.residual = torch.zeros_like(residual)
        else:
            self.residual = residual * (logits.amax(dim=1).mean() / mean)

    def knownness(self, features: Tensor, logits: Tensor) -> Tensor:
        outside = (features - self.learnt("origin", features)) @ self.learnt("residual", features)
        return torch.logsumexp(logits, dim=1) - outside.norm(dim=1)
