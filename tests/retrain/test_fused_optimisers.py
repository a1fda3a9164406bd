"""Fused optimisers move weights as the plain ones do, clipped or not, and go on from their state bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from nas_osr.objectives.parts.gan import make_adam
from nas_osr.training.fabric import make_fabric
from nas_osr.training.recipes import RECIPES, make_recipe

MAKE: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    **{name: make_recipe(name, {"learning_rate": 0.01}).make_optimizer for name in RECIPES},
    "gan": lambda parameters: make_adam(parameters, 0.01),
}


def train(network: nn.Module, optimizer: torch.optim.Optimizer, clip: float, first: int = 0, last: int = 6) -> None:
    fabric = make_fabric("cpu", "32-true", 0)
    wrapped: Any
    wrapped, fused = fabric.setup(network, optimizer)
    for seed in range(first, last):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 / (1 + seed)
        images = torch.randn(8, 5, generator=torch.Generator().manual_seed(seed))
        fused.zero_grad(set_to_none=True)
        fabric.backward(wrapped(images).square().sum())
        if clip:
            fabric.clip_gradients(wrapped, fused, max_norm=clip, error_if_nonfinite=False)
        fused.step()


@pytest.mark.parametrize("clip", [0.0, 0.1])
@pytest.mark.parametrize("name", MAKE)
def test_fused_optimisers_train_as_plain_ones(name: str, clip: float) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    plain, resumed = copy.deepcopy(network), copy.deepcopy(network)
    optimizer = MAKE[name](list(network.parameters()))
    assert all(group["fused"] for group in optimizer.param_groups)
    settings = {
        key: value for key, value in optimizer.defaults.items() if key not in ("fused", "decoupled_weight_decay")
    }
    train(network, optimizer, clip)
    train(plain, type(optimizer)(plain.parameters(), **settings, fused=False), clip)
    for found, expected in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)

    halfway = MAKE[name](list(resumed.parameters()))
    train(resumed, halfway, clip, last=3)
    again = copy.deepcopy(resumed)
    after = MAKE[name](list(again.parameters()))
    after.load_state_dict(copy.deepcopy(halfway.state_dict()))
    train(again, after, clip, first=3)
    for found, expected in zip(again.parameters(), network.parameters(), strict=True):
        assert torch.equal(found, expected)
