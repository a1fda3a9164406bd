"""A Gaussian for each class, and three scores of how well a point fits one.

With v = u - mu, Sigma = W^-T W^-1 and D dimensions:

- density: log N(u; mu, Sigma) = -|v W|^2 / 2 + log |det W| - D/2 log 2 pi, of a full or a diagonal covariance;
- eq5: log(-log(1 - P)), increasing in P = 1 - prod_r erf(|v_r| / (sigma_r sqrt 2)), the probability that a point lies
  farther from the mean than this one in at least one dimension (NAS-OSR, eq. 5 with centred bounds). In 32 dimensions P
  is 1 to the last digit wherever one coordinate is near the mean.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: Least variance of a class in any direction of a VAE's latents: 1e-3 beside the prior's 1 carries no information.
VARIANCE_FLOOR = 1e-6
#: And the least as a share of the largest: smaller ones are rounding errors of an eigenvalue decomposition.
SMALLEST_SHARE = 1e-12
#: Smaller distances (in standard deviations) count as this, so that an image at a class mean has a finite score.
DISTANCE_FLOOR = 1e-300


def whitening(centred: Tensor, full: bool, least: float = VARIANCE_FLOOR) -> Tensor:
    """[D, D] float64 W, for which the points centred @ W [B, D] have unit covariance; B may be smaller than D.

    Args:
        centred: [B, D] float64 points minus their mean.
        full: otherwise only their variances count.
        least: smaller variances count as this, in the points' own unit; greater than 0.
    """
    if full:
        variances, directions = torch.linalg.eigh(centred.T @ centred / len(centred))
    else:
        variances, directions = centred.square().mean(dim=0), torch.eye(centred.shape[1]).to(centred)
    floor = variances.amax().mul(SMALLEST_SHARE).clamp_min(least)
    return directions / variances.clamp_min(floor).sqrt()


def log_volume(whiten: Tensor) -> Tensor:
    """log |det W| of W [D, D] as `whitening` returns it, a scalar: its columns are orthogonal."""
    return whiten.square().sum(dim=0).log().sum() / 2


def log_density(standard: Tensor, volume: Tensor) -> Tensor:
    """[B] log N(u; mu, Sigma) of standard = (u - mu) W [B, D], volume = log |det W|."""
    return volume - (standard.square().sum(dim=1) + standard.shape[1] * math.log(2 * math.pi)) / 2


def log_minus_log_tail(standard: Tensor) -> Tensor:
    """[B] log(-log(1 - P)) of standard = v / sigma [B, D]; at most log D + 6.6.

    With F_r = erf(|v_r| / (sigma_r sqrt 2)) it is log sum_r (-log F_r): the logarithm of -S in
    S = sum_r log1p(-exp a_r), a_r = log 2 + log_ndtr(-|v_r| / sigma_r), summed as logarithms: nothing underflows.
    """
    return torch.logsumexp(log_minus_log_erf(standard.abs()), dim=1)


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
