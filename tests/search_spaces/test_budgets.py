"""Budgets: additive sizes against built networks, and the best architecture within one against all of a space."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_osr.errors import UserError
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.architectures.decoding import ArchitectureWeights
from nas_osr.search_spaces.architectures.sampling import sample_architecture
from nas_osr.search_spaces.budgets import Budget, Sizes, network_sizes
from nas_osr.search_spaces.constrained import (
    Choice,
    Label,
    best_within,
    check_budget,
    decode_within,
    even_weights,
    nearest_to,
    outlines,
    space_pieces,
    undominated,
)
from nas_osr.search_spaces.latencies import LatencyTable
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
        assert network_sizes(architecture, shape, memory=False) == built, architecture


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


def made_up_table(space: Space, shape: tuple[int, int, int]) -> LatencyTable:
    """Of a device that takes for each piece what its name says, as good as anything."""
    return LatencyTable("made up", 10, {key: 1000 + hash_of(key) for key in space_pieces(space, shape)})


def hash_of(text: str) -> int:
    return sum(place * ord(letter) for place, letter in enumerate(text)) % 7000


@cache
def all_of_a_space() -> tuple[Space, LatencyTable, list[Architecture], list[Sizes]]:
    """A small space, all of it, and what everything needs."""
    space, shape = Space(
        layers=3, channels=8, operations=("skip", "conv"), stems=("strided", "pooled"), widths=(0.5, 1),
        activations=("relu", "gelu"),
    ), (1, 16, 16)  # fmt: skip
    everything, base, path = [], sample_architecture(space, 0), (0, 1, 2)  # the only path of three layers
    for choices in itertools.product(*space.choices.values()):
        for operations in itertools.product(space.operations, repeat=3):
            branch = replace(base.branches[2], path=path, operations=operations)
            named = dict(zip(space.choices, choices, strict=True))
            everything.append(replace(base, branches={2: branch}, choices=named, found={}))
    table = made_up_table(space, shape)
    return space, table, everything, [network_sizes(one, shape, table) for one in everything]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.1, 1), st.sampled_from(["sizes", "memory", "latency", "all"]))
def test_the_best_within_is_the_best_of_all_that_fit(seed: int, share: float, limited: str) -> None:
    space, table, everything, sizes = all_of_a_space()
    weights, shape = draw_weights(space, seed), (1, 16, 16)

    def between(name: str) -> int:
        values = [getattr(size, name) for size in sizes]
        return int(min(values) + share * (max(values) - min(values)))

    budget = Budget(shape)
    if limited in ("sizes", "all"):
        budget = replace(budget, parameters=between("parameters"), macs=int(share * max(s.macs for s in sizes)))
    if limited in ("memory", "all"):
        budget = replace(budget, memory=between("memory"))
    if limited in ("latency", "all"):
        budget = replace(budget, latency=between("nanoseconds") / 1e7, table=table)
    fitting = [one for one, size in zip(everything, sizes, strict=True) if budget.admits(size)]
    found = best_within(space, weights, budget)
    if not fitting:
        assert found is None
        with pytest.raises(UserError, match="no network of the space has at most"):
            check_budget(budget, space)
        nearest = network_sizes(nearest_to(space, budget), shape, table)
        assert budget.excess(nearest) == min(map(budget.excess, sizes))
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
    exactly = Budget(shape, size.parameters, size.macs, size.memory)
    assert decode_within(space, weights, exactly) == free
    budget = Budget(shape, parameters=size.parameters * 3 // 4)
    assert network_sizes(decode_within(space, weights, budget), shape).parameters <= size.parameters * 3 // 4


@pytest.mark.parametrize("limit", ["memory", "latency"])
@pytest.mark.parametrize("name", SPACES)
def test_decoding_keeps_memory_and_latency(name: str, limit: str) -> None:
    space, shape = SPACES[name], (3, 32, 32)
    table, weights = made_up_table(space, shape), draw_weights(space, 2)
    free = network_sizes(decode_within(space, weights, Budget(shape)), shape, table)
    tight = Budget(shape, memory=free.memory * 9 // 10)
    if limit == "latency":
        tight = Budget(shape, latency=table.milliseconds(free.nanoseconds * 9 // 10), table=table)
    found = network_sizes(decode_within(space, weights, tight), shape, table)
    before, after = (getattr(s, "memory" if limit == "memory" else "nanoseconds") for s in (free, found))
    assert after <= before * 9 // 10 and tight.admits(found)


def test_nothing_fits() -> None:
    space, shape = SPACES["paper"], (1, 32, 32)
    with pytest.raises(UserError, match=r"at most 10 parameters: the nearest has [\d,]+ parameters \(0:.*: allow"):
        check_budget(Budget(shape, parameters=10), space)
    everything = [network_sizes(sample_architecture(space, seed), shape) for seed in range(200)]
    with pytest.raises(UserError, match=r"at most 99 bytes at prediction: the nearest has [\d,]+ bytes") as told:
        check_budget(Budget(shape, memory=99), space)
    least = int(str(told.value).split("nearest has ")[1].split(" ")[0].replace(",", ""))
    assert least == min(size.memory for size in everything)  # there are 33 different ones
    table = made_up_table(space, shape)
    with pytest.raises(UserError, match=r"at most 1e-09 ms an image: the nearest has 0\.00\d+ ms an image"):
        check_budget(Budget(shape, latency=1e-9, table=table), space)
    check_budget(Budget(shape, latency=1e-9), space)  # nothing has been measured yet


def test_the_nearest_to_two_limits_is_one_network() -> None:
    """Limits that single networks keep to, but none to both."""
    space, shape = (
        replace(SPACES["paper"], operations=("conv",), stems=("strided", "pooled"), outputs=(1, 2)),
        (1, 8, 8),
    )
    space = replace(space, widths=(0.5, 1.0))
    everything = {}
    for choices, paths in outlines(space):
        one = Choice(space, choices, paths).with_one("conv")
        everything[one.to_json()] = network_sizes(one, shape)
    least = [min(getattr(size, name) for size in everything.values()) for name in ("parameters", "macs")]
    budget = Budget(shape, *least)
    assert not any(budget.admits(size) for size in everything.values())
    found = nearest_to(space, budget)
    size, best = everything[found.to_json()], min(map(budget.excess, everything.values()))
    assert budget.excess(size) == best > (0, 0)
    with pytest.raises(UserError) as told:
        check_budget(budget, space)
    asked, have = (f"{p:,} parameters and {m:,} MACs" for p, m in (least, size[:2]))
    assert f"at most {asked}: the nearest has {have} (0:conv" in str(told.value)
    assert f"stem {found.stem}, output {found.choices['output']}" in str(told.value)


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 4), max_size=12))
def test_undominated_labels(drawn: list[tuple[int, int, int, int]]) -> None:
    labels = [Label(float(v), Sizes(p, m, 0, a), (index,)) for index, (v, p, m, a) in enumerate(drawn)]
    kept = undominated(labels)
    for value, size, _ in labels:
        beaten = any(
            v >= value and all(one <= other for one, other in zip(s, size, strict=True)) and (v, s) != (value, size)
            for v, s, _ in labels
        )
        assert ((value, size) in [(v, s) for v, s, _ in kept]) == (not beaten)
    assert len({(value, size) for value, size, _ in kept}) == len(kept)
