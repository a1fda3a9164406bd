"""Cuts of networks: images that change places there are as images that changed places before."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas_osr.objectives.parts.cutting import find_middle, mix_with, mixed_at
from nas_osr.objectives.parts.pooling import pool
from nas_osr.outputs import Features
from nas_osr.retrain.networks import NETWORKS, network_class
from nas_osr.search_spaces.architectures.sampling import sample_architecture
from nas_osr.search_spaces.blocks import prepare_encoder
from nas_osr.search_spaces.network import DiscreteNetwork
from nas_osr.search_spaces.space import Space
from nas_osr.search_spaces.supernet import build_supernet
from nas_osr.training.prepared import prepare_layers

IMAGE, PLAIN = (3, 32, 32), ((0.5,) * 3, (0.25,) * 3)
SPACE = Space(4, 16, ("skip", "conv", "conv2"))


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "supernet":
        return build_supernet(SPACE, 3, *PLAIN)
    if name.startswith("random"):
        return DiscreteNetwork(sample_architecture(SPACE, int(name[-1])), 3, *PLAIN)
    return network_class(name)(3, *PLAIN, IMAGE)


class Residual(nn.Module):
    """One layer after the other, the middle ones with shortcuts past some and all of them."""

    def __init__(self, past_all: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 4, 4, 4), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.keep, self.active = nn.Identity(), nn.ReLU(inplace=True)
        self.past_all = past_all

    def forward(self, images: Tensor) -> Features:
        x = self.first(images)
        x = self.active(self.second(x)) + self.keep(x)
        x = self.last(x)
        return Features({2: x + images[:, :1, :8, :8] if self.past_all else x}, {})


@pytest.mark.parametrize("name", [*NETWORKS, "supernet", "random:0", "random:1", "random:2"])
def test_images_that_change_places_at_the_cut(name: str) -> None:
    encoder = build(name).eval()
    prepare_layers(encoder, torch.randint(0, 256, (20, *IMAGE), dtype=torch.uint8))
    middle = find_middle(encoder, IMAGE)
    assert middle and middle != "normalise"
    images, mates = torch.rand(3, *IMAGE), torch.tensor([2, 0, 1])
    with torch.no_grad():
        with mixed_at(encoder, middle, 0.0, mates):
            swapped = pool(encoder(images))
        plain = pool(encoder(images))
    torch.testing.assert_close(swapped, plain[mates], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(swapped, plain)


@pytest.mark.parametrize(
    ("name", "middle"), [("cac", "to_quarter.5"), ("resnet18", "to_half"), ("supernet", "network.stem")]
)
def test_the_middle_is_where_it_is_looked_for(name: str, middle: str) -> None:
    assert find_middle(build(name), IMAGE) == middle


def test_a_module_beside_a_shortcut_is_no_cut() -> None:
    """Neither the second layer nor the one that returns its input, through which all seems to pass."""
    assert find_middle(Residual(), IMAGE) == "first"
    assert find_middle(Residual(past_all=True), IMAGE) == ""


def test_a_module_that_is_called_twice_is_no_cut() -> None:
    class Repeated(Residual):
        def forward(self, images: Tensor) -> Features:
            x = self.active(self.second(self.active(self.second(self.first(images)))))
            return Features({2: self.active(self.last(x))}, {})

    assert find_middle(Repeated(), IMAGE) == "first"


def test_it_works_without_values_and_leaves_no_trace() -> None:
    with torch.device("meta"):
        assert find_middle(build("resnet18"), IMAGE) == "to_half"
    encoder = build("resnet18").train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    state = torch.get_rng_state()
    find_middle(encoder, IMAGE)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert all(module.training and not module._forward_hooks for module in encoder.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in encoder.parameters())


def test_gradients_are_the_same_where_blocks_are_computed_again() -> None:
    found: list[list[Any]] = []
    for checkpointing in (False, True):
        encoder = build("cac").eval()
        middle = find_middle(encoder, IMAGE)
        prepare_encoder(encoder, checkpointing=checkpointing, compiled=False)
        torch.manual_seed(1)
        with mixed_at(encoder, middle, 0.3, torch.tensor([1, 0])):
            features = pool(encoder(torch.rand(2, *IMAGE)))
        features.square().sum().backward()
        assert encoder.checkpointing == checkpointing
        found.append([features, *(parameter.grad for parameter in encoder.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_mixing_by_hand() -> None:
    rows = torch.tensor([[0.0, 4.0], [8.0, 0.0]])
    assert mix_with(rows, 0.25, torch.tensor([1, 1])).tolist() == [[6.0, 1.0], [8.0, 0.0]]
