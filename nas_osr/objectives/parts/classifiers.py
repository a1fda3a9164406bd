"""Linear classifiers of features, plain ones and ones of angles."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CosineClassifier(nn.Module):
    """Logits s cos(w_j, f): the features' length decides nothing (Wang et al. 2018, CosFace without its margin).

    Where the scale is learned, it is exp(BN(v f)) of each image (Techapanurak et al. 2020): the network may be unsure
    of one without moving its features. In eval mode it is left out, so that logits are cosines.

    Attributes:
        weight: [N, D].
        scale: s, greater than 0; 0: learned.
        to_scale: v and the batch normalisation, [B, D] to [B, 1]; None where the scale is given.
    """

    def __init__(self, width: int, classes: int, scale: float) -> None:
        super().__init__()
        self.weight = nn.Linear(width, classes, bias=False).weight
        self.scale = scale
        self.to_scale = None if scale else nn.Sequential(nn.Linear(width, 1), nn.BatchNorm1d(1))

    def forward(self, features: Tensor) -> Tensor:
        """[B, N] float32 logits of features [B, D]."""
        cosines = F.linear(F.normalize(features.float()), F.normalize(self.weight.float()))
        if self.to_scale is None:
            return self.scale * cosines
        return cosines * self.to_scale(features).float().exp() if self.training else cosines

    def linear(self) -> tuple[Tensor, Tensor]:
        """W [N, D] and b [N] of the same logits in eval mode, of features of length 1."""
        return (self.scale or 1.0) * F.normalize(self.weight), torch.zeros_like(self.weight[:, 0])
