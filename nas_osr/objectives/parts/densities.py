"""Log densities and divergences of the generative objectives: plain functions, in the precision of their arguments."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LOG_TWO_PI = math.log(2.0 * math.pi)


def gaussian_log_density(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """log N(x; mean, diag variance), summed over the last dimension: [..., D] -> [...]. Variances are positive."""
    return -0.5 * ((x - mean).square() / variance + variance.log() + LOG_TWO_PI).sum(-1)


def standard_normal_divergence(mean: Tensor, variance: Tensor) -> Tensor:
    """KL(N(mean, diag variance) || N(0, I)), summed over the last dimension: [..., D] -> [...]."""
    return 0.5 * (variance + mean.square() - 1.0 - variance.log()).sum(-1)


def log_responsibilities(log_weights: Tensor, log_densities: Tensor) -> Tensor:
    """log r_j = log_softmax_j [log pi_j + log p_j]: [..., K] each -> [..., K].

    A component without weight (log pi = -inf) has log r = -inf; one of each K must have some.
    """
    return torch.log_softmax(log_weights + log_densities, dim=-1)


def bernoulli_loss(logits: Tensor, images: Tensor) -> Tensor:
    """Binary cross-entropy summed over the pixels, [B, C, H, W] each -> [B], in nats.

    It is minus the unnormalised log density of a continuous Bernoulli: its constant, which depends on the mean, is
    left out (GMVAE, grey images). The logits are those of the mean; images are in [0, 1].
    """
    return F.binary_cross_entropy_with_logits(logits, images, reduction="none").flatten(1).sum(1)


def truncated_gaussian_loss(mean: Tensor, scale: Tensor | float, images: Tensor) -> Tensor:
    """-log density of a Gaussian truncated to [0, 1], summed over the pixels, [B, C, H, W] each -> [B], in nats.

        log N(x; m, s) - log(Phi((1 - m)/s) - Phi(-m/s))    (GMVAE, colour images)

    With m in [0, 1] the difference of Phi is the sum of two positive halves, so nothing cancels for any s.

    Args:
        mean: m, the mode, in [0, 1].
        scale: s > 0, the standard deviation before truncation.
        images: values in [0, 1].
    """
    if not isinstance(scale, Tensor):  # filled on the device: a copy from the host would wait for it
        scale = torch.full((), scale, dtype=mean.dtype, device=mean.device)
    scale = scale.to(mean)
    log_density = -0.5 * (((images - mean) / scale).square() + LOG_TWO_PI) - scale.log()
    unit = scale * math.sqrt(2.0)
    log_mass = torch.log(0.5 * (torch.erf((1.0 - mean) / unit) + torch.erf(mean / unit)))
    return (log_mass - log_density).flatten(1).sum(1)
