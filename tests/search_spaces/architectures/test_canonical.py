"""Networks that compute the same are one; how many different ones a space has."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from nas_osr.search_spaces.architectures.architecture import Architecture, Branch
from nas_osr.search_spaces.architectures.canonical import canonical, count_descriptions, count_distinct, fingerprint
from nas_osr.search_spaces.architectures.references import published
from nas_osr.search_spaces.network import DiscreteNetwork
from nas_osr.search_spaces.space import Space, all_paths


def everything(space: Space) -> list[Architecture]:
    """All architectures of a space, one by one."""
    found = []
    for end in space.ends:
        names = [name for name in space.choices if name != "output"]
        for path, operations, *chosen in product(
            all_paths(space.layers, end),
            product(space.selectable, repeat=space.layers),
            *(space.choices[name] for name in names),
        ):
            choices = dict(zip(names, chosen, strict=True)) | ({"output": end} if space.outputs else {})
            found.append(Architecture(space, {end: Branch(path, operations)}, choices=choices))
    return found


@pytest.mark.parametrize(
    ("space", "descriptions", "distinct"),
    [
        (Space(4, 16), 243, 171),
        (Space(6, 16), 7290, 2439),
        (Space(4, 16, ("conv", "conv2")), 48, 48),
        (Space(3, 16, ("skip", "conv"), poolings=("average", "both"), outputs=(1, 2), widths=(0.5, 1.0)), None, None),
    ],
)
def test_counts_are_those_of_a_list(space: Space, descriptions: int | None, distinct: int | None) -> None:
    """The published numbers of the paper's space and of the tiny one, and a list of every architecture."""
    listed = everything(space)
    forms = [canonical(architecture) for architecture in listed]
    assert count_descriptions(space) == len(listed) == (descriptions or len(listed))
    found = len({form.to_json() for form in forms})
    assert count_distinct(space) == found == len(set(map(fingerprint, listed))) == (distinct or found)
    assert all(canonical(form) == form for form in forms)


def test_descriptions_of_branches_that_share_cells() -> None:
    space = Space(4, 16, ("skip", "conv"), branches=(1, 2))
    count = 0
    for ways in product(*(product(all_paths(4, end), product(space.operations, repeat=4)) for end in space.branches)):
        cells: dict[object, object] = {}
        count += all(
            cells.setdefault(cell, (path[: cell[0]], operations[: cell[0] + 1]))
            == (path[: cell[0]], operations[: cell[0] + 1])
            for path, operations in ways
            for cell in enumerate(path)
        )
    assert count_descriptions(space) == count
    assert count_distinct(space) is None


@pytest.mark.parametrize("branches", [(2,), (0, 2)])
def test_the_canonical_network_computes_the_same(branches: tuple[int, ...]) -> None:
    """With the weights of its cells in the same order, every output is equal to the bit."""
    space = Space(5, 16, branches=branches)
    ways = {
        0: Branch((0, 0, 0, 0, 0), ("skip", "conv", "skip", "conv2", "skip")),
        2: Branch((0, 0, 1, 1, 2), ("skip", "conv", "skip", "skip", "conv")),
    }
    architecture = Architecture(space, {scale: ways[scale] for scale in branches})
    form = canonical(architecture)
    assert form != architecture and fingerprint(form) == fingerprint(architecture)
    torch.manual_seed(0)
    before, after = (DiscreteNetwork(a, 3, (0.5,) * 3, (0.2,) * 3) for a in (architecture, form))
    weights = list(before.state_dict().values())
    assert [value.shape for value in weights] == [value.shape for value in after.state_dict().values()]
    after.load_state_dict(dict(zip(after.state_dict(), weights, strict=True)))
    images = torch.rand(2, 3, 32, 32)
    for maps, others in zip(before(images)[:2], after(images)[:2], strict=True):
        assert maps.keys() == others.keys()
        assert all(torch.equal(maps[scale], others[scale]) for scale in maps)


def test_what_cannot_be_moved_stands_for_itself() -> None:
    """Without its identity, the first branch would go on with a conv2 in the cell in which the other one skips."""
    ways = {
        0: Branch((0, 0, 0, 0), ("conv", "skip", "conv2", "conv")),
        2: Branch((0, 0, 1, 2), ("conv", "skip", "conv", "conv")),
    }
    architecture = Architecture(Space(4, 16, branches=(0, 2)), ways)
    assert canonical(architecture) == architecture


def test_a_fingerprint_tells_networks_apart_whatever_their_space() -> None:
    paper, wider = published(), published().with_network(channels=64)
    assert fingerprint(paper) == fingerprint(Architecture(paper.space, paper.branches, {"seed": 1}))
    others = [
        wider,
        wider.with_network(stem="pooled"),
        Architecture(Space(6, 64), {2: Branch((0, 0, 1, 1, 2, 2), ("conv",) * 6)}),
    ]
    assert len({fingerprint(paper), *map(fingerprint, others)}) == 4
    short = Architecture(Space(4, 64), {2: Branch((0, 1, 2, 2), ("conv",) * 4)})
    long = Architecture(Space(5, 64), {2: Branch((0, 0, 1, 2, 2), ("skip", *("conv",) * 4))})
    assert fingerprint(short) == fingerprint(long)
