"""Zero-cost scores against what their papers say, worked out otherwise; and what holds for all of them."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas_osr.errors import UserError
from nas_osr.objectives.parts.pooling import pool
from nas_osr.outputs import Features
from nas_osr.search_spaces.architectures.sampling import sample_architecture
from nas_osr.search_spaces.network import DiscreteNetwork
from nas_osr.search_spaces.presets import space_of
from nas_osr.search_spaces.zero_cost import SCORES, zero_cost
from nas_osr.seeds import make_generator


class Small(nn.Module):
    """Two convolutions, 3 -> 4 -> 5 channels, with or without an activation between them."""

    def __init__(self, *between: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.second = nn.Conv2d(3, 4, 3, 2, bias=False), nn.Conv2d(4, 5, 2, bias=False)
        self.between = nn.Sequential(*between)

    def forward(self, images: Tensor) -> Features:
        return Features({2: self.second(self.between(self.first(images)))}, {})


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = make_generator(0, "batch")
    return torch.rand(8, 3, 16, 16, generator=generator), torch.arange(8) % 3


def test_sizes(batch: tuple[Tensor, Tensor]) -> None:
    assert zero_cost("parameters", Small(), *batch) == 3 * 4 * 9 + 4 * 5 * 4
    assert zero_cost("macs", Small(), *batch) == 7 * 7 * 3 * 4 * 9 + 6 * 6 * 4 * 5 * 4


def test_synflow_of_a_product_of_layers(batch: tuple[Tensor, Tensor]) -> None:
    """R is linear in the weights of each of L layers, so that sum theta dR/dtheta is L R (Euler)."""
    network = Small()
    first, second = (layer.weight.detach().abs().sum(dim=(2, 3)).double() for layer in (network.first, network.second))
    passed = (second @ first).sum()  # at every pixel, so in the mean as well
    assert zero_cost("synflow", network, *batch) == pytest.approx(math.log(2 * passed), rel=1e-6)


def test_naswot_counts_equal_switches(batch: tuple[Tensor, Tensor]) -> None:
    network = Small(nn.ReLU())
    on = (network.first(batch[0]) > 0).flatten(1).tolist()
    kernel = [[sum(a == b for a, b in zip(one, other, strict=True)) for other in on] for one in on]
    _, expected = np.linalg.slogdet(np.array(kernel, dtype=float))
    assert zero_cost("naswot", network, *batch) == pytest.approx(expected)
    twice = torch.cat([batch[0][:4], batch[0][:4]])
    assert zero_cost("naswot", network, twice, batch[1]) < expected - 10  # nothing tells equal images apart


def test_zico_by_hand(batch: tuple[Tensor, Tensor]) -> None:
    """mean |g| / std g of two numbers, weight by weight: (|a| + |b|) / |a - b|."""
    network = Small(nn.Tanh())
    head = torch.randn(3, 5, generator=make_generator(0, "zico")) / math.sqrt(5)
    head.requires_grad_()
    gradients = []
    for half in (slice(0, 4), slice(4, 8)):
        loss = F.cross_entropy(pool(network(batch[0][half])) @ head.T, batch[1][half])
        found = torch.autograd.grad(loss, [network.first.weight, network.second.weight, head])
        gradients.append([gradient.flatten().tolist() for gradient in found])
    expected = 0.0
    for one, other in zip(*gradients, strict=True):
        expected += math.log(sum((abs(a) + abs(b)) / abs(a - b) for a, b in zip(one, other, strict=True)))
    assert zero_cost("zico", network, *batch) == pytest.approx(expected, rel=1e-4)


SPACES = {name: space_of(name, "tiny") for name in ("paper", "wide")}
SPACES["whitened"] = replace(SPACES["wide"], stem="whitened", stems=())  # passes nothing before it has seen images


@pytest.mark.parametrize("space", SPACES)
def test_every_score_of_every_network(space: str, batch: tuple[Tensor, Tensor]) -> None:
    """Finite, the same twice, different between networks, and the network and torch's random state left alone."""
    images = F.interpolate(batch[0], size=32)
    found: dict[str, list[float]] = {name: [] for name in SCORES}
    for seed, name in itertools.product(range(3), SCORES):
        torch.manual_seed(seed)
        architecture = sample_architecture(SPACES[space], seed)
        network = DiscreteNetwork(architecture, 3, (0.5,) * 3, (0.2,) * 3).train()
        before, state = copy.deepcopy(network.state_dict()), torch.random.get_rng_state()
        score = zero_cost(name, network, images, batch[1])
        assert math.isfinite(score) and score == zero_cost(name, network, images, batch[1])
        assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
        assert network.training and torch.equal(state, torch.random.get_rng_state())
        assert all(parameter.grad is None for parameter in network.parameters())
        found[name].append(score)
    assert all(len(set(scores)) == 3 for scores in found.values())


def test_an_unknown_score_is_refused(batch: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(UserError, match="no zero-cost score 'grasp': choose from parameters, macs, synflow"):
        zero_cost("grasp", Small(), *batch)
