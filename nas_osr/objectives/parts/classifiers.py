"""Linear layers for classifiers of features: ones of angles, and ones that stretch nothing."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SMALLEST = 1e-12  # that a matrix is divided by


class CosineClassifier(nn.Module):
    """Logits s cos(w_j, f): the features' length decides nothing (Wang et al. 2018, CosFace without its margin).

    Where the scale is learned, it is exp(BN(v f)) of each image (Techapanurak et al. 2020): the network may be unsure
    of one without moving its features. In eval mode it is the same for all, so that cosines alone decide, as there; and
    not 1, so that the softmax of the logits is about as sure as it was in training.

    Attributes:
        weight: [N, D].
        scale: s, greater than 0; 0: learned.
        to_scale: v and the batch normalisation, [B, D] to [B, 1]; None where the scale is given.
        usual_scale: [1], that of an average BN(v f) at the last training step; 1 before the first.
    """

    def __init__(self, width: int, classes: int, scale: float) -> None:
        super().__init__()
        self.weight = nn.Linear(width, classes, bias=False).weight
        self.scale = scale
        self.to_scale = None if scale else nn.Sequential(nn.Linear(width, 1), nn.BatchNorm1d(1))
        self.usual_scale: Tensor
        if self.to_scale is not None:
            self.register_buffer("usual_scale", torch.ones(1))

    def forward(self, features: Tensor) -> Tensor:
        """[B, N] float32 logits of features [B, D]."""
        cosines = F.linear(F.normalize(features.float()), F.normalize(self.weight.float()))
        if self.to_scale is None:
            return self.scale * cosines
        if not self.training:
            return self.usual_scale * cosines
        scales = self.to_scale(features).float().exp()
        self.usual_scale.copy_(cast(Tensor, self.to_scale[1].bias).detach().float().exp())
        return scales * cosines

    def linear(self) -> tuple[Tensor, Tensor]:
        """W [N, D] and b [N] of the same logits in eval mode, of features of length 1."""
        scale = self.usual_scale if self.to_scale is not None else self.scale
        return scale * F.normalize(self.weight), torch.zeros_like(self.weight[:, 0])


class SpectralLinear(nn.Linear):
    """A linear layer whose matrix is divided by its largest singular value (Miyato et al. 2018), by power iteration.

    One iteration in each training step, as in torch's `spectral_norm`; but a matrix of zeros stays one, and where
    the weights are frozen (an architecture step) nothing moves.

    Attributes:
        direction: [out], the left singular vector so far, of length 1.
    """

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__(width, outputs)
        self.direction: Tensor
        self.register_buffer("direction", F.normalize(torch.randn(outputs), dim=0))
        for _ in range(15):  # so that the first steps are not far off
            self.direction, _ = self._iterate()

    @torch.no_grad()
    def _iterate(self) -> tuple[Tensor, Tensor]:
        """The left and the right singular vector after one more iteration."""
        right = F.normalize(self.weight.T @ self.direction, dim=0)
        return F.normalize(self.weight @ right, dim=0), right

    def forward(self, input: Tensor) -> Tensor:
        """[B, width] -> [B, outputs] float32, under autocast too."""
        with torch.autocast(input.device.type, enabled=False):
            left, right = self._iterate()
            if self.training and self.weight.requires_grad:
                self.direction.copy_(left)
            largest = left @ (self.weight @ right)
            return F.linear(input.float(), self.weight / largest.clamp_min(SMALLEST), self.bias)
