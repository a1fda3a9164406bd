"""Bootstrap, openness-F1 curve and summaries against explicit resampling, enumeration and numpy."""

import time
from itertools import combinations

import numpy as np
import pytest

from nas_osr.metrics import open_set as metrics
from nas_osr.metrics.resampling import bootstrap_intervals, mean_and_spread, openness_f1_curve


def make_test_set(size=300, num_known=3, num_unknown=4, seed=0):
    """knownness (tied), predicted, closed-set labels, true labels, source classes."""
    generator = np.random.default_rng(seed)
    sources = generator.integers(0, num_known + num_unknown, size)
    true = np.minimum(sources, num_known)
    knownness = (generator.normal(size=size) + (true < num_known)).round(1)
    closed = np.where(
        generator.random(size) < 0.8, np.minimum(true, num_known - 1), generator.integers(0, num_known, size)
    )
    predicted = np.where(knownness < 0, num_known, closed)
    return knownness, predicted, closed, true, sources


@pytest.mark.parametrize("stratified_by_source", [False, True])
def test_bootstrap_equals_explicit_resampling(stratified_by_source):
    knownness, predicted, closed, true, sources = make_test_set()
    strata = sources if stratified_by_source else true
    found = bootstrap_intervals(
        knownness, predicted, closed, true, 3, strata=strata if stratified_by_source else None, repeats=20, seed=5
    )
    # the same draws, image by image, and the plain metrics on the copies
    order = np.argsort(strata, kind="stable")
    starts = np.searchsorted(strata[order], strata[order], "left")
    spans = np.searchsorted(strata[order], strata[order], "right") - starts
    generator = np.random.default_rng(5)
    values = []
    for _ in range(20):
        drawn = order[starts + generator.integers(0, spans)]
        np.testing.assert_array_equal(np.bincount(strata[drawn]), np.bincount(strata))
        values.append(metrics.evaluate_open_set(knownness[drawn], predicted[drawn], closed[drawn], true[drawn], 3, 4))
    assert set(found) == {"auroc", "oscr", "macro_f1", "macro_f1_harmonic", "closed_set_accuracy"}
    for name, interval in found.items():
        assert interval == pytest.approx(np.quantile([value[name] for value in values], [0.025, 0.975]))


def test_bootstrap_is_reproducible_and_holds_the_estimate():
    images = make_test_set()[:4]
    first = bootstrap_intervals(*images, 3, repeats=200, seed=1)
    assert first == bootstrap_intervals(*images, 3, repeats=200, seed=1)
    assert first != bootstrap_intervals(*images, 3, repeats=200, seed=2)
    estimate = metrics.evaluate_open_set(*images, 3, 4)
    for name, (low, high) in first.items():
        assert low < estimate[name] < high
    narrow = bootstrap_intervals(*images, 3, repeats=200, seed=1, level=0.5)
    assert narrow["auroc"][1] - narrow["auroc"][0] < first["auroc"][1] - first["auroc"][0]


def test_bootstrap_accuracy_has_the_binomial_width():
    generator = np.random.default_rng(0)
    true, closed = np.zeros(2000, int), (generator.random(2000) < 0.3).astype(int)
    low, high = bootstrap_intervals(np.zeros(2000), closed, closed, true, 2, repeats=1000)["closed_set_accuracy"]
    deviation = np.sqrt(0.3 * 0.7 / 2000)
    assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.1)


def test_bootstrap_without_unknown_or_known_images():
    closed_set = bootstrap_intervals(np.arange(4.0), [0, 0, 1, 2], [0, 0, 1, 1], [0, 0, 1, 1], 2, repeats=50)
    assert closed_set["auroc"] is None
    assert closed_set["oscr"] is None
    assert closed_set["closed_set_accuracy"] == (1.0, 1.0)
    only_unknown = bootstrap_intervals(np.arange(3.0), [2, 2, 0], [0, 0, 0], [2, 2, 2], 2, repeats=50)
    assert only_unknown["closed_set_accuracy"] is None
    assert only_unknown["macro_f1"] is not None


def test_bootstrap_of_ten_thousand_images_is_fast():
    knownness, predicted, closed, true, sources = make_test_set(size=10_000, num_known=6)
    start = time.perf_counter()
    bootstrap_intervals(knownness, predicted, closed, true, 6, strata=sources, repeats=200)
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize("settings", [{"repeats": 0}, {"level": 1.0}, {"level": 0.0}])
def test_bootstrap_refuses_settings_without_meaning(settings):
    with pytest.raises(ValueError, match="repeats >= 1"):
        bootstrap_intervals([0.0], [0], [0], [0], 1, **settings)


def test_openness_curve_equals_enumeration():
    _, predicted, _, true, sources = make_test_set()
    curve = openness_f1_curve(true, predicted, sources, 3)
    assert [record["unknown_classes"] for record in curve] == [0, 1, 2, 3, 4]
    for count, record in enumerate(curve):
        values = []
        for subset in combinations([3, 4, 5, 6], count):
            kept = (true < 3) | np.isin(sources, subset)
            values.append(metrics.macro_f1(true[kept], predicted[kept], 3))
        assert record["subsets"] == len(values)
        assert record["macro_f1"] == pytest.approx(np.mean(values))
        assert record["openness_cac"] == metrics.openness(3, count)
        assert record["openness_gradmix"] == metrics.openness(3, count, "gradmix")
        if len(values) > 1:
            assert record["std"] == pytest.approx(np.std(values, ddof=1))
        else:
            assert record["std"] is None


def test_openness_curve_samples_distinct_subsets_when_there_are_many():
    _, predicted, _, true, sources = make_test_set(size=2000, num_known=4, num_unknown=50)
    names = np.array([f"class {source}" for source in sources])
    curve = openness_f1_curve(true, predicted, names, 4, max_subsets=60, seed=3)
    assert [record["subsets"] for record in curve] == [1, 50, *[60] * 47, 50, 1]
    assert curve == openness_f1_curve(true, predicted, names, 4, max_subsets=60, seed=3)
    assert curve[-1]["macro_f1"] == pytest.approx(metrics.macro_f1(true, predicted, 4))


def test_openness_curve_tells_unknown_classes_from_known_ones_with_the_same_id():
    true = np.array([0, 1, 2, 2])
    curve = openness_f1_curve(true, np.array([0, 1, 2, 0]), np.array([0, 1, 0, 1]), 2)
    assert [record["subsets"] for record in curve] == [1, 2, 1]
    assert curve[2]["macro_f1"] == pytest.approx((2 / 3 + 1 + 2 / 3) / 3)


def test_openness_curve_of_a_closed_set_has_one_point():
    (record,) = openness_f1_curve([0, 1], [0, 2], ["cat", "dog"], 2)
    assert record["unknown_classes"] == 0
    assert record["macro_f1"] == 0.5


def test_summary():
    found = mean_and_spread(
        [{"auroc": 0.8, "oscr": None}, {"auroc": 0.9, "oscr": 0.5}, {"auroc": 0.7, "oscr": None, "new": None}]
    )
    assert found["auroc"] == {"mean": pytest.approx(0.8), "std": pytest.approx(0.1), "n": 3}
    assert found["oscr"] == {"mean": 0.5, "std": None, "n": 1}
    assert found["new"] == {"mean": None, "std": None, "n": 0}
    assert mean_and_spread([]) == {}
