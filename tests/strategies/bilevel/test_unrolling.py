"""The gradient one weight step ahead, against second derivatives that are exact."""

from __future__ import annotations

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor

from nas_osr.strategies.bilevel.unrolling import unrolled_gradients

FABRIC = Fabric(accelerator="cpu")


@pytest.mark.parametrize("rate", [0.0, 0.05])
def test_it_equals_the_derivative_through_the_step(rate: float) -> None:
    """Quadratic losses, in which the finite difference is exact but for rounding; autograd through the step."""
    torch.manual_seed(0)
    a, b, c = torch.randn(5, 5).double(), torch.randn(5, 3).double(), torch.randn(5, 3).double()
    w = [torch.randn(5).double().requires_grad_(), torch.randn(()).double().requires_grad_()]
    alpha = [torch.randn(3).double().requires_grad_(), torch.randn(()).double().requires_grad_()]

    def training(w: list[Tensor]) -> Tensor:
        return w[0] @ a @ w[0] + w[0] @ b @ alpha[0] + alpha[0].square().sum() * w[1]

    def validation(w: list[Tensor]) -> Tensor:
        return (w[0] - c @ alpha[0]).square().sum() + w[1].square()

    steps = torch.autograd.grad(training(w), w, create_graph=True)
    expected = torch.autograd.grad(validation([x - rate * g for x, g in zip(w, steps, strict=True)]), alpha[0])
    before = [x.detach().clone() for x in w]
    found = unrolled_gradients(FABRIC, lambda: training(w), lambda: validation(w), w, alpha, rate)
    torch.testing.assert_close(found[0], expected[0])
    assert found[1] is None  # it has no part in either
    assert all(torch.equal(x.detach(), y) for x, y in zip(w, before, strict=True))


def test_both_sides_draw_the_same_noise() -> None:
    """Else the difference of two noisy gradients, over a small step, would drown the derivative."""
    torch.manual_seed(0)
    w, alpha = torch.ones(4).requires_grad_(), torch.ones(4).requires_grad_()
    found = unrolled_gradients(
        FABRIC,
        lambda: (torch.randn(4) * 100 * alpha + w * alpha).sum(),
        lambda: (w.square() * 1.0).sum(),
        [w],
        [alpha],
        0.1,
    )
    ahead = w - 0.1 * alpha  # the gradient of the training loss is alpha
    torch.testing.assert_close(found[0], (-0.1 * 2 * ahead).detach(), rtol=1e-3, atol=1e-3)
