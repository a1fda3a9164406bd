"""CAP, the two-stage test of NAS-OSR: class-conditional reconstruction, then probability under class Gaussians.

Stage one: the error of the best class-conditional reconstruction, min_j MSE(x, Dec(mu_j, z)), rejects images that no
class can reconstruct. Stage two: under the Gaussian of class m, the probability that a class attribute lies farther
from the mean than the image's own in at least one dimension is

    P_m = 1 - prod_r erf(|v_r| / (sigma_r sqrt 2)),   v = u - mu_m

(the paper's eq. 5 with centred bounds); the image is rejected if the largest P_m is small. In 32 dimensions P_m is 1 to
the last digit, so its monotone form log(-log(1 - P_m)) is what is computed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nas_osr.outputs import Outputs
from nas_osr.scoring.base import Scores, ScoringRule, bounded, in_blocks, members_by_class

#: Least variance of a class in one dimension; a standard deviation of 1e-3 beside the prior's 1 carries no information.
VARIANCE_FLOOR = 1e-6
#: Smaller distances (in standard deviations) count as this, so that an image at a class mean has a finite knownness.
DISTANCE_FLOOR = 1e-300
#: Images whose distances to all classes are in memory at once.
BLOCK = 256


class CAP(ScoringRule):
    """Reconstruction error, then class Gaussians on the class attribute u; the label is the classifier's.

    Stage one accepts errors up to the `acceptance` quantile of known validation images; stage two accepts knownness
    down to their 1 - `acceptance` quantile. So both together accept between 2 * acceptance - 1 and acceptance of them.

    Attributes:
        means, variances: [N, D] float64 of u per class, over the correctly classified training images (over all of its
            images where none is correct).
        usable: [N] bool, whether a class had any training image; one without cannot accept an image.
        error_threshold: the largest error that stage one accepts; None before `set_threshold`.
    """

    name = "cap"
    needs = frozenset({"logits", "latent_mean", "class_reconstruction_error"})
    learned = ("error_threshold", "means", "variances", "usable")

    error_threshold: float | None

    def fit(self, outputs: Outputs, targets: Tensor, objective: object | None = None) -> None:
        """Estimate the class Gaussians. targets: [B] int64 in 0..N-1."""
        assert outputs.logits is not None
        latents = bounded(outputs.latent_mean)
        shape = (outputs.logits.shape[1], latents.shape[1])
        self.means, self.variances = latents.new_zeros(shape), latents.new_ones(shape)
        self.usable = torch.zeros(shape[0], dtype=torch.bool, device=latents.device)
        for label, members in members_by_class(outputs.logits, targets):
            own = latents[members]
            self.means[label] = own.mean(dim=0)
            self.variances[label] = own.var(dim=0, correction=0).clamp_min(VARIANCE_FLOOR)
            self.usable[label] = True

    def set_threshold(self, outputs: Outputs, targets: Tensor) -> None:
        """Set both thresholds, each on all of these known validation images.

        Raises:
            UserError: there is no image, or an error or a knownness is not a number (the network has diverged).
        """
        self.error_threshold = self.quantile(least_error(outputs), self.acceptance)
        self.threshold = self.quantile(self.density(outputs), 1.0 - self.acceptance)

    def scores(self, outputs: Outputs) -> Scores:
        """Knownness by stage two, at least 0, for images that pass stage one; minus their excess error otherwise."""
        if self.error_threshold is None:
            raise RuntimeError("set_threshold comes before the scores")
        assert outputs.logits is not None
        excess = least_error(outputs) - self.error_threshold
        return Scores(torch.where(excess > 0, -excess, self.density(outputs)), outputs.logits.double())

    def density(self, outputs: Outputs) -> Tensor:
        """[B] float64 knownness by stage two: 1 + t for the largest Gaussian score t >= 0, 1 / (1 - t) for t < 0.

        That takes [-inf, inf) to [0, inf), keeps its order and has full resolution in the far tail.
        """
        score = self.gaussian_scores(outputs).amax(dim=1)
        return torch.where(score >= 0, 1.0 + score, 1.0 / (1.0 - score.clamp_max(0.0)))

    def gaussian_scores(self, outputs: Outputs) -> Tensor:
        """[B, N] float64 log(-log(1 - P_m)), increasing in P_m; -inf for a class without training images.

        With F_r = erf(|v_r| / (sigma_r sqrt 2)), log(-log(1 - P_m)) = log sum_r (-log F_r). It is the logarithm of -S_m
        in S_m = sum_r log1p(-exp a_r), a_r = log 2 + log_ndtr(-|v_r| / sigma_r), summed as logarithms so that nothing
        underflows.
        """
        latents = bounded(outputs.latent_mean)
        means, deviations = self.learnt("means", latents), self.learnt("variances", latents).sqrt()
        scores = []
        for own in in_blocks(latents, BLOCK):
            distance = (own[:, None] - means).abs() / deviations  # [b, N, D]
            scores.append(torch.logsumexp(log_minus_log_erf(distance), dim=2))
        return torch.cat(scores).masked_fill(~self.learnt("usable", latents), -math.inf)


def log_minus_log_erf(distance: Tensor) -> Tensor:
    """log(-log(erf(distance / sqrt 2))), elementwise, float64: from 6.6 at 0 down to about -distance^2 / 2.

    distance: standard deviations from the mean, >= 0. Each range uses the form that keeps full precision there.
    """
    distance = distance.clamp_min(DISTANCE_FLOOR)
    scaled = distance / math.sqrt(2.0)
    near = torch.log(-torch.log(torch.erf(scaled.clamp_max(1.0))))
    middle = torch.log(-torch.log1p(-torch.erfc(scaled.clamp(0.4, 8.0))))
    far = math.log(2.0) + torch.special.log_ndtr(-distance)  # log erfc: -log(1 - e) is e within rounding
    return torch.where(scaled < 0.5, near, torch.where(scaled < 7.0, middle, far))


def least_error(outputs: Outputs) -> Tensor:
    """[B] float64, the error of the best class-conditional reconstruction."""
    assert outputs.class_reconstruction_error is not None
    return outputs.class_reconstruction_error.double().amin(dim=1)
