"""Densities and divergences against torch.distributions, SciPy, numerical integration and hand-worked cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from nas_osr.objectives.parts.densities import (
    bernoulli_loss,
    gaussian_log_density,
    log_responsibilities,
    standard_normal_divergence,
    truncated_gaussian_loss,
)


def moments(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mean = 2 * torch.randn(*shape, generator=generator, dtype=torch.float64)
    return mean, (torch.randn(*shape, generator=generator, dtype=torch.float64)).exp()


def test_gaussian_log_density() -> None:
    mean, variance = moments(4, 3, 5)
    x = moments(4, 1, 5, seed=1)[0]
    expected = Independent(Normal(mean, variance.sqrt()), 1).log_prob(x.expand_as(mean))
    torch.testing.assert_close(gaussian_log_density(x, mean, variance), expected)


def test_standard_normal_divergence() -> None:
    """Against the closed form of torch.distributions, and against draws."""
    mean, variance = moments(6, 4)
    posterior, prior = Normal(mean, variance.sqrt()), Normal(torch.zeros_like(mean), 1.0)
    expected = kl_divergence(posterior, prior).sum(-1)
    torch.testing.assert_close(standard_normal_divergence(mean, variance), expected)
    torch.manual_seed(0)
    draws = posterior.sample((20_000,))
    ratio = (posterior.log_prob(draws) - prior.log_prob(draws)).sum(-1)
    error = ratio.std(0) / math.sqrt(len(draws))
    assert ((ratio.mean(0) - expected).abs() < 4 * error).all()


@pytest.mark.parametrize(
    ("weights", "densities", "expected"),
    [
        ([0.5, 0.5], [0.3, 0.1], [0.75, 0.25]),
        ([0.25, 0.75], [0.3, 0.1], [0.5, 0.5]),
        ([1.0, 0.0], [0.1, 0.9], [1.0, 0.0]),
        ([1.0], [1e-30], [1.0]),
    ],
)
def test_responsibilities_by_hand(weights: list[float], densities: list[float], expected: list[float]) -> None:
    found = log_responsibilities(torch.tensor(weights).log(), torch.tensor(densities).log()).exp()
    torch.testing.assert_close(found, torch.tensor(expected))


def test_responsibilities_of_hopeless_densities_still_sum_to_one() -> None:
    log_densities = torch.tensor([-1e30, -2e30], requires_grad=True)
    found = log_responsibilities(torch.tensor([0.5, 0.5]).log(), log_densities).exp()
    found[0].backward()
    assert found.tolist() == [1.0, 0.0] and log_densities.grad is not None and log_densities.grad.isfinite().all()


def test_bernoulli_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 1, 3, 2, generator=generator)
    images = torch.rand(2, 1, 3, 2, generator=generator)
    images[0, 0, 0] = torch.tensor([0.0, 1.0])
    for found, row, image in zip(bernoulli_loss(logits, images), logits, images, strict=True):
        expected = 0.0
        for logit, x in zip(row.flatten().tolist(), image.flatten().tolist(), strict=True):
            p = 1 / (1 + math.exp(-logit))
            expected -= x * math.log(p) + (1 - x) * math.log(1 - p)
        assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("scale", [0.01, 0.1, 0.5, 3.0, 1e3, 1e6])
def test_truncated_gaussian_against_scipy(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    mean = torch.rand(3, 2, 4, 4, generator=generator, dtype=torch.float64)
    images = (mean + scale * torch.randn(mean.shape, generator=generator, dtype=torch.float64)).clamp(0, 1)
    mean[0, 0, 0], images[0, 0, 1] = torch.tensor([0.0, 1.0, 0.5, 1e-9]), torch.tensor([0.0, 1.0, 0.0, 1.0])
    if scale < 1e3:
        m, x = mean.numpy(), images.numpy()
        log_density = stats.truncnorm.logpdf(x, -m / scale, (1 - m) / scale, loc=m, scale=scale)
        expected = torch.from_numpy(-log_density.sum((1, 2, 3)))
    else:  # SciPy cancels there: the density is flat
        expected = torch.zeros(3, dtype=torch.float64)
    torch.testing.assert_close(truncated_gaussian_loss(mean, scale, images), expected, rtol=1e-7, atol=1e-4)


@pytest.mark.parametrize(("mean", "scale"), [(0.0, 0.1), (0.3, 0.05), (0.5, 2.0), (1.0, 0.4)])
def test_truncated_gaussian_integrates_to_one(mean: float, scale: float) -> None:
    def density(x: float) -> float:
        pixel = torch.full((1, 1, 1, 1), mean, dtype=torch.float64)
        return math.exp(-float(truncated_gaussian_loss(pixel, scale, torch.full_like(pixel, x))))

    assert integrate.quad(density, 0, 1, points=[mean])[0] == pytest.approx(1.0, abs=1e-8)


UNIT = st.floats(0, 1, width=32)


@settings(max_examples=50)
@given(x=UNIT, mean=UNIT, scale=st.floats(np.float32(1e-3), 1e4, width=32))
@example(x=0.0, mean=1.0, scale=0.0010000000474974513)
@example(x=1.0, mean=1.0, scale=1e4)
def test_truncated_gaussian_is_finite_in_float32(x: float, mean: float, scale: float) -> None:
    pixel = torch.full((1, 1, 1, 1), mean, requires_grad=True)
    deviation = torch.tensor(scale, requires_grad=True)
    loss = truncated_gaussian_loss(pixel, deviation, torch.full((1, 1, 1, 1), x))
    gradients = torch.autograd.grad(loss.sum(), [pixel, deviation])
    assert loss.dtype == torch.float32
    assert all(bool(value.isfinite().all()) for value in (loss, *gradients))
