"""Budgets: additive sizes against built networks, and the best architecture within one against all of a space."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_osr.errors import UserError
from nas_osr.search_spaces.architectures.decoding import ArchitectureWeights
from nas_osr.search_spaces.architectures.sampling import sample_architecture
from nas_osr.search_spaces.budgets import (
    Budget,
    Sizes,
    best_within,
    decode_within,
    even_weights,
    network_sizes,
    undominated,
)
from nas_osr.search_spaces.network import DiscreteNetwork
from nas_osr.search_spaces.presets import space_of
from nas_osr.search_spaces.space import Space
from nas_osr.search_spaces.zero_cost.counts import count_macs_of_encoder, count_parameters

SPACES = {
    "paper": Space(layers=4, channels=8),
    "branches": Space(layers=4, channels=8, branches=(0, 1, 2)),
    "wide": space_of("wide", "tiny"),
}


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 16, 48)])
def test_sizes_are_those_of_the_network(name: str, shape: tuple[int, int, int]) -> None:
    for seed in range(6):
        architecture = sample_architecture(SPACES[name], seed)
        network = DiscreteNetwork(architecture, shape[0], (0.0,) * shape[0], (1.0,) * shape[0])
        built = Sizes(count_parameters(network), count_macs_of_encoder(network, torch.zeros(1, *shape)))
        assert network_sizes(architecture, shape) == built, architecture


def draw_weights(space: Space, seed: int) -> ArchitectureWeights:
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int) -> tuple[float, ...]:
        return tuple(torch.softmax(2 * torch.randn(count, generator=generator), 0).tolist())

    even = even_weights(space)
    return ArchitectureWeights(
        {cell: draw(len(alpha)) for cell, alpha in even.alpha.items()},
        {cell: (lambda pair: (pair[0], pair[1]))(draw(2)) for cell in even.beta},
        {choice: draw(len(gamma)) for choice, gamma in even.gamma.items()},
    )


def probability(architecture, weights: ArchitectureWeights) -> float:
    """The product that is to be the largest."""
    space, value = architecture.space, 1.0
    for cell, operation in architecture.chosen_cells().items():
        value *= weights.alpha[cell][space.operations.index(operation)]
    for (_, source), (layer, target) in architecture.path_edges():
        if 0 < target <= layer - 1:
            value *= weights.beta[layer, target][0 if target > source else 1]
    for name, chosen in architecture.choices.items():
        value *= weights.gamma[name][space.choices[name].index(chosen)]
    return value


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.floats(0.1, 1))
def test_the_best_within_is_the_best_of_all_that_fit(seed: int, share: float) -> None:
    space = Space(layers=3, channels=8, operations=("skip", "conv"), stems=("strided", "pooled"), widths=(0.5, 1))
    weights, shape = draw_weights(space, seed), (1, 16, 16)
    everything = []
    for choices in itertools.product(*space.choices.values()):
        path = (0, 1, 2)  # the only one of three layers
        for operations in itertools.product(space.operations, repeat=3):
            base = sample_architecture(space, 0)
            branch = replace(base.branches[2], path=path, operations=operations)
            named = dict(zip(space.choices, choices, strict=True))
            everything.append(replace(base, branches={2: branch}, choices=named, found={}))
    sizes = [network_sizes(one, shape) for one in everything]
    least, most = min(sizes).parameters, max(sizes).parameters
    budget = Budget(shape, parameters=int(least + share * (most - least)), macs=int(share * max(s.macs for s in sizes)))
    fitting = [one for one, size in zip(everything, sizes, strict=True) if budget.admits(size)]
    found = best_within(space, weights, budget)
    if not fitting:
        assert found is None
        with pytest.raises(UserError, match="no network of the space has at most"):
            budget.check(space)
        return
    assert found is not None and budget.fits(found)
    best = max(probability(one, weights) for one in fitting)
    assert math.isclose(probability(found, weights), best, rel_tol=1e-9)


@pytest.mark.parametrize("name", SPACES)
def test_decoding_keeps_the_budget(name: str) -> None:
    space, shape = SPACES[name], (3, 32, 32)
    weights = draw_weights(space, 1)
    free = decode_within(space, weights, Budget(shape))
    size = network_sizes(free, shape)
    assert decode_within(space, weights, Budget(shape, *size)) == free
    budget = Budget(shape, parameters=size.parameters * 3 // 4)
    assert network_sizes(decode_within(space, weights, budget), shape).parameters <= size.parameters * 3 // 4


def test_nothing_fits() -> None:
    with pytest.raises(UserError, match=r"at most 10 parameters \(the least that any has: [\d,]+\): allow more"):
        Budget((1, 32, 32), parameters=10).check(SPACES["paper"])


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)), max_size=12))
def test_undominated_labels(drawn: list[tuple[int, int, int]]) -> None:
    labels = [(float(value), Sizes(*size), (index,)) for index, (value, *size) in enumerate(drawn)]
    kept = undominated(labels)
    for value, size, _ in labels:
        beaten = any(
            v >= value and s.parameters <= size.parameters and s.macs <= size.macs and (v, s) != (value, size)
            for v, s, _ in labels
        )
        assert ((value, size) in [(v, s) for v, s, _ in kept]) == (not beaten)
    assert len({(value, size) for value, size, _ in kept}) == len(kept)
