"""Architectures at random: every different network as likely as another; one change from one to the next."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest

from nas_osr.search_spaces.architectures.architecture import Architecture, Branch
from nas_osr.search_spaces.architectures.canonical import canonical, fingerprint
from nas_osr.search_spaces.architectures.references import published
from nas_osr.search_spaces.architectures.sampling import mutate_architecture, sample_architecture
from nas_osr.search_spaces.space import Space, all_paths

WHOLE = Space(
    4, 16, stems=("strided", "pooled"), activations=("relu", "gelu"), poolings=("average", "maximum"), outputs=(1, 2)
)


def chi_square(counts: Counter[object], expected: float) -> float:
    return sum((count - expected) ** 2 / expected for count in counts.values())


def test_sampling_is_uniform_over_different_networks() -> None:
    """All 171 of the tiny space, each as often as another."""
    counts = Counter(fingerprint(sample_architecture(Space(4, 16), seed)) for seed in range(171 * 20))
    assert len(counts) == 171
    assert chi_square(Counter(counts), 20) < 233  # 99.9 % quantile, 170 degrees of freedom


def test_sampling_is_uniform_over_what_concerns_the_network() -> None:
    found = [sample_architecture(WHOLE, seed) for seed in range(600)]
    for name, candidates in WHOLE.choices.items():
        counts = Counter(architecture.choices[name] for architecture in found)
        assert set(counts) == set(candidates)
        if name != "output":  # more paths lead to one scale than to another
            assert chi_square(Counter(counts), 300) < 10.9  # 1 degree of freedom


def test_sampling_two_branches_is_uniform_over_the_pairs_that_agree() -> None:
    space = Space(layers=4, channels=8, operations=("conv",), branches=(1, 2))

    def agree(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
        return all(a[: layer + 1] == b[: layer + 1] for layer in range(4) if a[layer] == b[layer])

    pairs = [pair for pair in product(all_paths(4, 1), all_paths(4, 2)) if agree(*pair)]
    samples = (sample_architecture(space, seed).branches for seed in range(1000))
    counts = Counter((branches[1].path, branches[2].path) for branches in samples)
    assert set(counts) == set(pairs)
    assert chi_square(Counter(counts), 1000 / len(pairs)) < 22


def differences(one: Architecture, other: Architecture) -> list[str]:
    """What differs: a choice, or the path, or an operation at a time."""
    found = [name for name in one.choices if one.choices[name] != other.choices[name] and name != "output"]
    paths = [[branch.path for branch in architecture.branches.values()] for architecture in (one, other)]
    if paths[0] != paths[1]:
        return [*found, "path"]
    if one.joins.keys() != other.joins.keys():
        return [*found, "join"]
    cells, others = one.chosen_cells(), other.chosen_cells()
    return found + [f"operation {cell}" for cell in cells if cells[cell] != others[cell]]


@pytest.mark.parametrize(
    "space", [Space(6, 16), WHOLE, Space(5, 16, branches=(0, 1, 2))], ids=["one", "whole", "three"]
)
def test_a_mutation_changes_one_thing(space: Space) -> None:
    start = sample_architecture(space, 1)
    seen = []
    for seed in range(300):
        other = mutate_architecture(start, seed)
        assert other == mutate_architecture(start, seed) and other.space == space and other.found == {}
        changed = differences(start, other)
        assert len(changed) == 1, changed
        seen.append(changed[0])
    wanted = {f"operation {cell}" for cell in start.chosen_cells()} | {
        name for name in space.choices if name != "output"
    }
    assert wanted | {"path"} == set(seen)


def test_second_inputs_come_by_all_ways_that_agree() -> None:
    """Half of the cells that can have two; on the path 0 0 1 1 2, cell 3/1 by both other ways to 2/0 and so on."""
    space = Space(5, 16, ("conv",), two_inputs=True)
    found = [sample_architecture(space, seed) for seed in range(2000)]
    of_path = [architecture for architecture in found if architecture.branches[2].path == (0, 0, 1, 1, 2)]
    ways = Counter(architecture.joins.get((2, 1), Branch((), ())).path for architecture in of_path)
    assert set(ways) == {(), (0, 1)} and chi_square(Counter(ways), len(of_path) / 2) < 10.9
    assert {a.joins[4, 2].path for a in of_path if (4, 2) in a.joins} == {(0, 0, 1, 2), (0, 1, 1, 2), (0, 1, 2, 2)} - {
        (0, 1, 1, 2)  # which would come to 2/1 by 1/1, where the path comes to it by 1/0
    }


def test_mutations_reach_the_whole_space() -> None:
    """From any architecture to every different network of a space."""
    space, seen = Space(3, 16, ("skip", "conv"), outputs=(1, 2)), set()
    edge = [Architecture(space, {2: Branch((0, 1, 2), ("conv",) * 3)}, choices={"output": 2})]
    while edge:
        here = edge.pop()
        if here.to_json() not in seen:
            seen.add(here.to_json())
            edge += [mutate_architecture(here, seed) for seed in range(40)]
    assert len(seen) == 3 * 2**3  # two paths to scale 1, one to scale 2
    assert len({canonical(Architecture.from_json(text, "seen")).to_json() for text in seen}) < len(seen)


def test_there_may_be_nothing_to_change() -> None:
    only = Architecture(Space(3, 16, ("conv",)), {2: Branch((0, 1, 2), ("conv",) * 3)})
    with pytest.raises(ValueError, match="one architecture only"):
        mutate_architecture(only, 0)
    assert mutate_architecture(published(), 3).found == {}
