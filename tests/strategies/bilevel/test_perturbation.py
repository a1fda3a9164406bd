"""Discretisation by perturbation, against a loss of which the answer is known."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch

from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.architectures.sampling import sample_architecture
from nas_osr.search_spaces.space import Space
from nas_osr.search_spaces.spaces import Wide
from nas_osr.search_spaces.supernet import Supernet, build_supernet
from nas_osr.strategies.bilevel.perturbation import decode_by_perturbation


def weights(net: Supernet) -> dict[str, list[float]]:
    """What the candidates weigh now, by label."""
    parameters = net.architecture_parameters
    return {label: weigher(parameters[label].detach()).tolist() for label, weigher in net.weighers.items()}


@pytest.mark.parametrize("space", [Space(5, 16, branches=(0, 2)), Space(**asdict(Wide(4, 8)))], ids=["paper", "wide"])
@pytest.mark.parametrize("seed", range(3))
def test_what_the_loss_needs_stays_whatever_the_alphas_say(space: Space, seed: int) -> None:
    torch.manual_seed(seed)
    net = build_supernet(space, 1, (0.5,), (0.25,)).eval()
    needed = sample_architecture(space, seed)
    net.follow(needed)
    rows = {label: weigher(net.architecture_parameters[label]).tolist() for label, weigher in net.weighers.items()}
    for logits in net.architecture_parameters.values():
        torch.nn.init.normal_(logits)
    calls = []

    def loss() -> float:
        """How little of the needed candidates there is."""
        calls.append(1)
        found = weights(net)
        return -sum(p * q for label, row in rows.items() for p, q in zip(found[label], row, strict=True))

    found = decode_by_perturbation(net, loss)
    assert found.describe() == needed.describe()
    none = sum(label.startswith("alpha_") for label in rows) if "none" in space.operations else 0
    assert len(calls) == sum(map(len, rows.values())) - none
    assert all(weigher.drawn is None and weigher.chosen is None for weigher in net.weighers.values())


def test_what_had_all_of_the_weight_can_be_taken_away() -> None:
    """The others then share it."""
    net = build_supernet(Space(3, 16), 1, (0.5,), (0.25,)).eval()
    with torch.no_grad():
        for logits in net.architecture_parameters.values():
            logits.copy_(200.0 * torch.eye(len(logits))[0])
    seen: list[list[float]] = []

    def loss() -> float:
        seen.append(weights(net)["alpha_0_0"])
        return 0.0

    found = decode_by_perturbation(net, loss)
    assert seen[:3] == [[0, 0.5, 0.5], [1, 0, 0], [1, 0, 0]]
    assert isinstance(found, Architecture)
