"""Which number of subclusters pays at an equal reconstruction loss, on curves made by hand."""

from __future__ import annotations

import math

import pytest

from nas_osr.retrain.subclusters.curves import covering_at, recommend

Points = list[dict[str, float]]


def curve(*pairs: tuple[float, float]) -> Points:
    """Covering and reconstruction, epoch by epoch."""
    return [{"covering": covering, "reconstruction": reconstruction} for covering, reconstruction in pairs]


def rising(slope: float, least: float = 0.0, steps: int = 11) -> Points:
    """Reconstruction falls from 100 to `least` while covering rises from 2 to 2 + slope * (100 - least)."""
    levels = [100 - (100 - least) * step / (steps - 1) for step in range(steps)]
    return curve(*((2 + slope * (100 - level), level) for level in levels))


@pytest.mark.parametrize(
    ("level", "expected"),
    [(100, 1.0), (90, 1.5), (80, 2.0), (70, 2.5), (60, 3.0), (110, 1.0)],
)
def test_covering_where_the_reconstruction_first_comes_down_to_a_level(level: float, expected: float) -> None:
    found = covering_at(curve((1, 100), (2, 80), (3, 60), (9, 70), (8, 50)), level)
    assert found == pytest.approx(expected)


def test_curves_are_compared_at_the_reconstruction_that_both_reach() -> None:
    """At their ends K = 2 covers at 22 and K = 1 at 27, which is bought with the reconstruction alone."""
    one, two = rising(0.25, least=0.0), rising(0.25, least=20.0)
    assert one[-1]["covering"] - two[-1]["covering"] > 0.05 * 27 + math.log(2)
    assert recommend({1: {0: one}, 2: {0: two}}, gain=0.05) == (1, "")


@pytest.mark.parametrize(
    ("second", "third", "expected"),
    [
        (0.20, 0.19, 2),  # 27 to 22 pays; 22 to 21 is not 1.1 + log(3 / 2)
        (0.20, 0.15, 3),
        (0.235, 0.10, 1),  # 27 to 25.5 is not 1.35 + log 2; the third is never looked at
        (0.30, 0.10, 1),
    ],
)
def test_the_first_step_that_does_not_pay_ends_it(second: float, third: float, expected: int) -> None:
    curves = {1: rising(0.25), 2: rising(second), 3: rising(third)}
    assert recommend({count: {0: own, 1: own} for count, own in curves.items()}, gain=0.05) == (expected, "")


def test_naming_a_subcluster_has_its_price() -> None:
    """Half a nat is more than 1 % of 27, and less than log 2."""
    assert recommend({1: {0: rising(0.25)}, 2: {0: rising(0.245)}}, gain=0.01) == (1, "")
    assert recommend({2: {0: rising(0.25)}, 3: {0: rising(0.242)}}, gain=0.01) == (3, "")  # log(3 / 2) is .41


def test_a_collapsed_training_says_nothing() -> None:
    collapsed = curve((5, 100), (0.1, 99), (0.01, 98))
    count, why = recommend({1: {0: collapsed, 1: collapsed, 2: rising(0.25)}, 2: {0: rising(0.25)} | {
        1: rising(0.25), 2: rising(0.25)}}, gain=0.05)  # fmt: skip
    assert count is None and why == "1 collapsed in 2 of 3 seeds"
    # one of three is left out, and the others decide
    own = {0: rising(0.25), 1: rising(0.25), 2: rising(0.25)}
    assert recommend({1: own, 2: {**own, 1: collapsed}}, gain=0.05) == (1, "")
    # little to cover at an equal reconstruction is no collapse
    assert recommend({1: own, 2: {seed: rising(0.05) for seed in own}}, gain=0.05) == (2, "")
    # where all have collapsed, none is far below another
    assert recommend({1: {0: collapsed}, 2: {0: collapsed}}, gain=0.05) == (None, "1 collapsed in 1 of 1 seeds")


def test_seeds_that_do_not_agree_decide_nothing() -> None:
    one = {seed: rising(0.25) for seed in range(3)}
    apart = {0: rising(0.15), 1: rising(0.27), 2: rising(0.25)}
    count, why = recommend({1: one, 2: apart}, gain=0.05)
    assert count is None and why == "the seeds do not agree whether 2 pay over 1"
    together = {0: rising(0.15), 1: rising(0.16), 2: rising(0.14)}
    assert recommend({1: one, 2: together}, gain=0.05) == (2, "")
