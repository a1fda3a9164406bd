"""Rotations of the classes that play the unknown."""

from __future__ import annotations

from collections import Counter

import pytest

from nas_osr.errors import UserError
from nas_osr.strategies.pseudo_unknown import Classes


@pytest.mark.parametrize(("pseudo", "count", "most"), [((1, 4), 6, 3), ((0, 1, 2), 10, 10), ((2,), 3, 3)])
def test_every_class_plays_the_unknown_once_before_one_does_so_twice(
    pseudo: tuple[int, ...], count: int, most: int
) -> None:
    first = Classes.without(pseudo, count)
    rotations = first.rotate(most, seed=3)
    assert rotations[0] == first and len({frozenset(classes.pseudo) for classes in rotations}) == most
    for number, classes in enumerate(rotations, start=1):
        assert sorted(classes.kept + classes.pseudo) == list(range(count))
        assert first.rotate(number, seed=3) == rotations[:number]  # more of them leave the first ones as they are
        played = Counter(label for before in rotations[:number] for label in before.pseudo)
        assert max(played.values()) - min(played[label] for label in range(count)) <= 1


def test_the_seed_draws_the_others() -> None:
    first = Classes.without((0,), 8)
    assert len({first.rotate(3, seed) for seed in range(8)}) > 1


@pytest.mark.parametrize(("pseudo", "rotations"), [((1, 4), 4), ((), 1)])
def test_more_than_there_are_is_refused(pseudo: tuple[int, ...], rotations: int) -> None:
    with pytest.raises(UserError, match="rotations must be at most"):
        Classes.without(pseudo, 6).rotate(rotations, seed=0)
