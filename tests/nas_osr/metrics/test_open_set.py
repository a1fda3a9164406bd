"""Each metric against a library, a slow obvious version or a hand-worked value."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import auc, average_precision_score, f1_score, precision_score, recall_score, roc_auc_score

from nas_osr.metrics import open_set as metrics

NUM_KNOWN = 3


@st.composite
def image_sets(draw, both_sides=False):
    """(knownness with many ties, predicted, labels_pred, true) of a few images over 3 known classes."""
    size = draw(st.integers(2 if both_sides else 1, 30))
    labels = st.integers(0, NUM_KNOWN)
    true = draw(st.lists(labels, min_size=size, max_size=size))
    if both_sides:
        true[:2] = [draw(st.integers(0, NUM_KNOWN - 1)), NUM_KNOWN]
    predicted = draw(st.lists(labels, min_size=size, max_size=size))
    closed = draw(st.lists(st.integers(0, NUM_KNOWN - 1), min_size=size, max_size=size))
    knownness = draw(st.lists(st.sampled_from([-5.0, -0.1, 0.0, 0.1, 0.5, 7.0]), min_size=size, max_size=size))
    return np.array(knownness), np.array(predicted), np.array(closed), np.array(true)


def slow_curve(knownness, is_unknown):
    """(TPR, TNR) with known positive at every threshold, from accepting none to accepting all."""
    known, unknown = knownness[~is_unknown], knownness[is_unknown]
    thresholds = [np.inf, *sorted(set(knownness), reverse=True)]
    return [(np.mean(known >= threshold), np.mean(unknown < threshold)) for threshold in thresholds]


def slow_oscr(knownness, labels_pred, true):
    """Trapezoids under (FPR, CCR), one point per distinct threshold."""
    known = true != NUM_KNOWN
    right = labels_pred == true
    points = []
    for threshold in [np.inf, *sorted(set(knownness), reverse=True)]:
        accepted = knownness >= threshold
        points.append((np.sum(accepted & ~known) / np.sum(~known), np.sum(accepted & known & right) / np.sum(known)))
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(points))


@settings(max_examples=50, deadline=None)
@given(image_sets(both_sides=True))
def test_detection_metrics_match_slow_versions(images):
    knownness, _, closed, true = images
    unknown = true == NUM_KNOWN
    pairs = [(k > u) + 0.5 * (k == u) for k in knownness[~unknown] for u in knownness[unknown]]
    assert metrics.auroc(knownness, unknown) == pytest.approx(np.mean(pairs))
    assert metrics.auroc(knownness, unknown) == pytest.approx(roc_auc_score(unknown, -knownness))
    assert metrics.auin(knownness, unknown) == pytest.approx(average_precision_score(~unknown, knownness))
    assert metrics.auout(knownness, unknown) == pytest.approx(average_precision_score(unknown, -knownness))
    curve = slow_curve(knownness, unknown)
    assert metrics.tnr_at_tpr(knownness, unknown) == pytest.approx(max(tnr for tpr, tnr in curve if tpr >= 0.95))
    assert metrics.tnr_at_tpr(knownness, unknown, 0.5) == pytest.approx(max(tnr for tpr, tnr in curve if tpr >= 0.5))
    assert metrics.dtacc(knownness, unknown) == pytest.approx(max(tpr + tnr for tpr, tnr in curve) / 2)
    assert metrics.oscr(knownness, closed, true, NUM_KNOWN) == pytest.approx(slow_oscr(knownness, closed, true))


@settings(max_examples=50, deadline=None)
@given(image_sets(both_sides=True))
def test_only_the_order_of_knownness_matters(images):
    knownness, predicted, closed, true = images
    stretched = np.sign(knownness) * 1e300 * np.abs(knownness) / 7
    stretched[knownness == 7.0] = np.inf
    expected = metrics.evaluate_open_set(knownness, predicted, closed, true, NUM_KNOWN, 2)
    assert metrics.evaluate_open_set(stretched, predicted, closed, true, NUM_KNOWN, 2) == expected


def test_values_worked_by_hand():
    # known: 4 (right), 3 (right), 2 (wrong); unknown: 3, 1
    knownness = np.array([4.0, 3.0, 2.0, 3.0, 1.0])
    true, closed = np.array([0, 1, 2, 3, 3]), np.array([0, 1, 1, 2, 2])
    unknown = true == 3
    assert metrics.auroc(knownness, unknown) == pytest.approx(4.5 / 6)  # of 6 pairs: 4 right, one tie, one wrong
    assert metrics.oscr(knownness, closed, true, 3) == pytest.approx(3.5 / 6)  # the wrong label's pair is lost
    assert metrics.tnr_at_tpr(knownness, unknown) == 0.5
    assert metrics.dtacc(knownness, unknown) == pytest.approx((1 + 0.5) / 2)
    assert metrics.auin(knownness, unknown) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3, abs=1e-3)


def test_oscr_is_auroc_when_every_label_is_right_and_accuracy_when_detection_is_perfect():
    generator = np.random.default_rng(0)
    true = generator.integers(0, 4, 500)
    knownness = generator.normal(size=500).round(1)
    right = np.minimum(true, 2)
    assert metrics.oscr(knownness, right, true, 3) == pytest.approx(metrics.auroc(knownness, true == 3))
    closed = generator.integers(0, 3, 500)
    perfect = np.where(true == 3, -1.0, knownness.clip(0))
    assert metrics.oscr(perfect, closed, true, 3) == pytest.approx(metrics.closed_set_accuracy(closed, true, 3))


def test_tnr_takes_known_as_positive():
    known, unknown = np.linspace(0.3, 1, 20), np.linspace(0, 0.5, 10)
    knownness = np.concatenate([known, unknown])
    is_unknown = np.arange(30) >= 20
    # 19 of 20 known are exactly 95 %, so the second lowest known score is the threshold
    assert metrics.tnr_at_tpr(knownness, is_unknown) == np.mean(unknown < known[1])


@settings(max_examples=50, deadline=None)
@given(image_sets())
def test_f1_matches_the_library(images):
    _, predicted, _, true = images
    labels = list(range(NUM_KNOWN + (true == NUM_KNOWN).any()))
    options = {"labels": labels, "average": "macro", "zero_division": 0.0}
    assert metrics.macro_f1(true, predicted, NUM_KNOWN) == pytest.approx(f1_score(true, predicted, **options))
    precision, recall = precision_score(true, predicted, **options), recall_score(true, predicted, **options)
    expected = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    harmonic = metrics.macro_f1_harmonic(true, predicted, NUM_KNOWN)
    assert harmonic == pytest.approx(expected)
    assert harmonic >= metrics.macro_f1(true, predicted, NUM_KNOWN) - 1e-12


def test_f1_counts_an_absent_label_as_zero():
    true, predicted = np.array([0, 1, 3]), np.array([0, 1, 1])  # label 2 never occurs
    assert metrics.macro_f1(true, predicted, 3) == pytest.approx((1 + 2 / 3 + 0 + 0) / 4)
    assert metrics.macro_f1(true, predicted, 3) == pytest.approx(0.417, abs=1e-3)


def test_f1_of_a_closed_set_averages_the_known_labels_only():
    true = np.array([0, 0, 1, 1])
    assert metrics.macro_f1(true, true, 2) == 1.0
    assert metrics.macro_f1(true, np.array([0, 2, 1, 1]), 2) == pytest.approx((2 / 3 + 1) / 2)
    assert metrics.macro_f1(true, np.full(4, 2), 2) == 0.0
    assert metrics.macro_f1_harmonic(true, np.full(4, 2), 2) == 0.0


@pytest.mark.parametrize(
    ("known", "unknown", "cac", "gradmix"),
    [(6, 4, 13.4, 22.5), (4, 10, 33.3, 46.5), (4, 50, 62.9, 72.8), (20, 180, 57.4, 68.4), (10, 0, 0.0, 0.0)],
)
def test_openness_gives_the_printed_numbers(known, unknown, cac, gradmix):
    assert round(100 * metrics.openness(known, unknown), 1) == cac
    assert round(100 * metrics.openness(known, unknown, "gradmix"), 1) == gradmix


def test_openness_refuses_what_is_not_defined():
    with pytest.raises(ValueError, match="not defined"):
        metrics.openness(0, 4)
    with pytest.raises(ValueError, match="'cac' or 'gradmix'"):
        metrics.openness(6, 4, "scheirer")


@settings(max_examples=50, deadline=None)
@given(image_sets(both_sides=True))
def test_evaluate_is_made_of_the_single_metrics(images):
    knownness, predicted, closed, true = images
    result = metrics.evaluate_open_set(knownness, predicted, closed, true, NUM_KNOWN, 4)
    unknown = true == NUM_KNOWN
    assert result["auroc"] == metrics.auroc(knownness, unknown)
    assert result["macro_f1"] == metrics.macro_f1(true, predicted, NUM_KNOWN)
    assert result["openness_cac"] == metrics.openness(NUM_KNOWN, 4)
    assert result["accepted_known"] == pytest.approx(np.mean(predicted[~unknown] != NUM_KNOWN))
    assert result["rejected_unknown"] == pytest.approx(np.mean(predicted[unknown] == NUM_KNOWN))
    assert all(isinstance(value, float) and 0 <= value <= 1 for value in result.values())


@settings(max_examples=50, deadline=None)
@given(image_sets())
def test_what_is_undefined_is_none_and_never_nan(images):
    knownness, predicted, closed, true = images
    result = metrics.evaluate_open_set(knownness, predicted, closed, true, NUM_KNOWN, 1)
    assert all(value is None or np.isfinite(value) for value in result.values())
    unknown = true == NUM_KNOWN
    one_sided = unknown.all() or not unknown.any()
    for name in ("auroc", "auin", "auout", "tnr_at_95_tpr", "dtacc", "oscr"):
        assert (result[name] is None) == one_sided
    assert (result["closed_set_accuracy"] is None) == (result["accepted_known"] is None) == unknown.all()
    assert (result["rejected_unknown"] is None) == (not unknown.any())


def test_all_images_rejected():
    true = np.array([0, 1, 2, 3, 3])
    result = metrics.evaluate_open_set(np.zeros(5), np.full(5, 3), np.array([0, 1, 2, 0, 0]), true, 3, 2)
    assert result["auroc"] == result["oscr"] == result["dtacc"] == 0.5  # one value of knownness
    assert result["tnr_at_95_tpr"] == 0.0
    assert result["accepted_known"] == 0.0
    assert result["rejected_unknown"] == 1.0
    assert result["macro_f1"] == pytest.approx((2 * 2 / 7) / 4)
    assert result["closed_set_accuracy"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.1, np.nan], [0, 1], [0, 1], [0, 1]), "1 of 2 images is not a number"),
        (([0.1, 0.2], [0, 3], [0, 1], [0, 1]), "predicted must lie in 0..2"),
        (([0.1, 0.2], [0, 1], [0, 2], [0, 1]), "labels_pred must lie in 0..1"),
        (([0.1, 0.2], [0, 1], [0, 1], [0, -1]), "true must lie in 0..2"),
        (([0.1, 0.2], [0, 1], [0, 1], [0.0, 1.0]), "flat array of integers"),
        (([0.1], [0, 1], [0, 1], [0, 1]), "one entry per image"),
    ],
)
def test_evaluate_refuses_inconsistent_arrays(arguments, message):
    with pytest.raises(ValueError, match=message):
        metrics.evaluate_open_set(*arguments, 2, 1)


def test_auroc_is_the_area_under_its_curve_on_saturated_scores():
    generator = np.random.default_rng(1)
    knownness = np.minimum(generator.normal(1, 1, 400), 1.0)  # a third of the scores are tied at the top
    unknown = generator.random(400) < 0.4
    curve = slow_curve(knownness, unknown)
    area = auc([1 - tnr for _, tnr in curve], [tpr for tpr, _ in curve])
    assert metrics.auroc(knownness, unknown) == pytest.approx(area)
