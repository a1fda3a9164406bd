"""Saliency maps against derivatives by hand and a slow version, and what they must not touch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nas_osr.objectives.parts.saliency_maps import activated_area, saliency_maps


def test_by_hand() -> None:
    """One image, two channels on 1x2 pixels, a loss whose gradient can be read off."""
    maps = torch.tensor([[[[1.0, -2.0]], [[3.0, 4.0]]]], requires_grad=True)
    slope = torch.tensor([[[[2.0, 5.0]], [[-1.0, 0.5]]]])
    loss = (maps * slope).sum()
    # pixel 0: 2*1 + 0*3; pixel 1: 5*(-2) + .5*4 < 0
    assert saliency_maps(loss, [maps], (1, 2), "layercam").tolist() == [[[2.0, 0.0]]]
    # weights (3.5, -.25): 3.5*1 - .25*3 and 3.5*(-2) - .25*4 < 0
    assert saliency_maps(loss, [maps], (1, 2), "gradcam").tolist() == [[[2.75, 0.0]]]
    # the gradient is the loss's, not that of its negative
    assert saliency_maps(-loss, [maps], (1, 2), "layercam").tolist() == [[[3.0, 0.0]]]


@pytest.mark.parametrize("weights", ["layercam", "gradcam"])
def test_equals_a_slow_version_with_several_layers(weights: str) -> None:
    torch.manual_seed(0)
    first = nn.Conv2d(3, 4, 3, padding=1, stride=2)
    second = nn.Conv2d(4, 5, 3, padding=1, stride=2)
    fine = first(torch.randn(3, 3, 16, 16)).relu()
    coarse = second(fine)
    loss = torch.logsumexp(coarse.mean((2, 3)) @ coarse.mean((2, 3)).T, dim=(0, 1))
    result = saliency_maps(loss, [fine, coarse], (16, 16), weights)
    expected = torch.zeros(3, 16, 16)
    for maps in (fine, coarse):
        (gradient,) = torch.autograd.grad(loss, maps, retain_graph=True)
        for image in range(3):
            small = torch.zeros(maps.shape[2:])
            for channel in range(maps.shape[1]):
                slope = gradient[image, channel]
                factor = slope.clamp_min(0) if weights == "layercam" else slope.mean()
                small += factor * maps[image, channel].detach()
            small = small.clamp_min(0)
            expected[image] += F.interpolate(small[None, None], (16, 16), mode="bilinear")[0, 0]
    assert result.max() > 0
    torch.testing.assert_close(result, expected)


def test_leaves_no_trace_and_the_graph_stays_usable() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.2, inplace=True), nn.Conv2d(4, 2, 3))
    images = torch.randn(2, 3, 8, 8, requires_grad=True)
    maps = layers(images)
    loss = maps.square().mean()
    result = saliency_maps(loss, [maps], (8, 8))
    assert not result.requires_grad and result.shape == (2, 8, 8)
    assert images.grad is None and all(parameter.grad is None for parameter in layers.parameters())
    loss.backward()
    with_saliency = [parameter.grad.clone() for parameter in layers.parameters()]
    layers.zero_grad()
    layers(images).square().mean().backward()
    for parameter, gradient in zip(layers.parameters(), with_saliency, strict=True):
        assert torch.equal(parameter.grad, gradient)


def test_bf16_maps_give_float32() -> None:
    maps = torch.randn(2, 3, 2, 2).bfloat16().requires_grad_()
    assert saliency_maps(maps.float().square().sum(), [maps], (4, 4)).dtype == torch.float32


def test_an_unknown_weighting_is_refused() -> None:
    maps = torch.ones(1, 1, 1, 1, requires_grad=True)
    with pytest.raises(ValueError, match="layercam, gradcam"):
        saliency_maps(maps.sum(), [maps], (1, 1), "cam")


def test_activated_area() -> None:
    maps = torch.tensor([[[0.0, 1e-4], [2e-4, 1e-3]], [[0.0, 0.0], [0.0, 5e-4]]])
    thresholds = torch.tensor([0.0, 1e-5, 1e-4, 6e-4, 1e-3])
    assert activated_area(maps, thresholds).tolist() == [0.5, 0.5, 0.375, 0.125, 0.0]
