"""Metrics on odd input: any score, any number of classes, one side only; against brute force and sklearn."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, confusion_matrix, f1_score, roc_auc_score

from nas_osr.evaluation.predictions import Predictions
from nas_osr.metrics import open_set as metrics
from nas_osr.metrics.resampling import bootstrap_intervals

DETECTION = (metrics.auroc, metrics.auin, metrics.auout, metrics.tnr_at_tpr, metrics.dtacc)
# neighbours that differ in the last bit, subnormal numbers, both zeros and both infinities
EDGES = [0.0, -0.0, 5e-324, -5e-324, 1.0, np.nextafter(1, 2), 1e308, -1e308, np.inf, -np.inf]
SCORES = st.sampled_from(EDGES) | st.floats(allow_nan=False)


@st.composite
def test_sets(draw: st.DrawFn) -> tuple[Any, ...]:
    """(knownness, predicted, labels_pred, true, N): 1 to 5 known classes, all sides and labels possible or absent."""
    num_known, size = draw(st.integers(1, 5)), draw(st.integers(1, 14))
    kind = draw(
        st.sampled_from(["any", "no unknown", "no known", "all rejected", "none rejected", "one class", "tied"])
    )

    def column(values: st.SearchStrategy[Any]) -> np.ndarray:
        return np.array(draw(st.lists(values, min_size=size, max_size=size)))

    true, predicted = column(st.integers(0, num_known)), column(st.integers(0, num_known))
    closed, knownness = column(st.integers(0, num_known - 1)), column(SCORES).astype(float)
    if kind == "no unknown":
        true = np.minimum(true, num_known - 1)
    elif kind == "no known":
        true[:] = num_known
    elif kind == "all rejected":
        predicted[:] = num_known
    elif kind == "none rejected":
        predicted = closed
    elif kind == "one class":
        true[true < num_known] = 0
    elif kind == "tied":
        knownness[:] = knownness[0]
    return knownness, predicted, closed, true, num_known


test_sets.__test__ = False  # type: ignore[attr-defined]


def exact_average_precision(scores: Any, positive: Any) -> Fraction:
    """The sum over distinct thresholds of the gain in recall times the precision, in fractions."""
    total, reached = Fraction(0), 0
    for threshold in sorted(set(scores), reverse=True):
        accepted = [p for s, p in zip(scores, positive, strict=True) if s >= threshold]
        hits = sum(map(bool, accepted))
        total += Fraction(hits - reached, int(np.sum(positive))) * Fraction(hits, len(accepted))
        reached = hits
    return total


@settings(max_examples=200)
@given(test_sets())
def test_detection_by_brute_force(images: tuple[Any, ...]) -> None:
    knownness, _, closed, true, num_known = images
    unknown = true == num_known
    known_scores, unknown_scores = knownness[~unknown].tolist(), knownness[unknown].tolist()
    if not known_scores or not unknown_scores:
        assert [metric(knownness, unknown) for metric in DETECTION] == [None] * 5
        assert metrics.oscr(knownness, closed, true, num_known) is None
        return
    pairs = [Fraction(2 * (k > u) + (k == u), 2) for k in known_scores for u in unknown_scores]
    assert metrics.auroc(knownness, unknown) == pytest.approx(float(sum(pairs) / len(pairs)), abs=1e-12)
    assert metrics.auin(knownness, unknown) == pytest.approx(float(exact_average_precision(knownness, ~unknown)))
    assert metrics.auout(knownness, unknown) == pytest.approx(float(exact_average_precision(-knownness, unknown)))
    thresholds = [*sorted(set(knownness.tolist()))]
    curve = [(1.0, 0.0)] + [(np.mean(knownness[~unknown] >= t), np.mean(knownness[unknown] < t)) for t in thresholds]
    curve.append((0.0, 1.0))
    assert metrics.tnr_at_tpr(knownness, unknown) == pytest.approx(max(tnr for tpr, tnr in curve if tpr >= 0.95))
    assert metrics.dtacc(knownness, unknown) == pytest.approx(max((tpr + tnr) / 2 for tpr, tnr in curve))
    right = [k for k, c, t in zip(knownness, closed, true, strict=True) if t < num_known and c == t]
    won = [Fraction(2 * (k > u) + (k == u), 2) for k in right for u in unknown_scores]
    expected = float(sum(won, Fraction(0)) / len(pairs))
    assert metrics.oscr(knownness, closed, true, num_known) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=100)
@given(test_sets())
def test_detection_by_sklearn(images: tuple[Any, ...]) -> None:
    """Where sklearn takes the scores: it refuses infinite ones."""
    knownness, _, _, true, num_known = images
    unknown = true == num_known
    if unknown.all() or not unknown.any() or not np.isfinite(knownness).all():
        return
    assert metrics.auroc(knownness, unknown) == pytest.approx(roc_auc_score(~unknown, knownness))
    assert metrics.auin(knownness, unknown) == pytest.approx(average_precision_score(~unknown, knownness))
    assert metrics.auout(knownness, unknown) == pytest.approx(average_precision_score(unknown, -knownness))


@settings(max_examples=200)
@given(test_sets())
def test_f1_by_brute_force_and_sklearn(images: tuple[Any, ...]) -> None:
    knownness, predicted, closed, true, num_known = images
    labels = list(range(num_known + bool((true == num_known).any())))
    f1, precisions, recalls = [], [], []
    for label in labels:
        hits = int(np.sum((true == label) & (predicted == label)))
        guessed, actual = int(np.sum(predicted == label)), int(np.sum(true == label))
        f1.append(Fraction(2 * hits, guessed + actual) if guessed + actual else Fraction(0))
        precisions.append(Fraction(hits, guessed) if guessed else Fraction(0))
        recalls.append(Fraction(hits, actual) if actual else Fraction(0))
    precision, recall = sum(precisions) / len(labels), sum(recalls) / len(labels)
    harmonic = 2 * precision * recall / (precision + recall) if precision + recall else 0
    result = metrics.evaluate_open_set(knownness, predicted, closed, true, num_known, 1)
    assert result["macro_f1"] == pytest.approx(float(sum(f1) / len(labels)))
    assert result["macro_f1_harmonic"] == pytest.approx(float(harmonic))
    library = f1_score(true, predicted, labels=labels, average="macro", zero_division=0.0)
    assert result["macro_f1"] == pytest.approx(library)
    known = true < num_known
    if known.any():
        table = confusion_matrix(true[known], closed[known], labels=range(num_known))
        assert result["closed_set_accuracy"] == pytest.approx(np.trace(table) / table.sum())
    for value in result.values():
        assert value is None or 0.0 <= value <= 1.0


@settings(max_examples=50)
@given(test_sets(), st.randoms(use_true_random=False))
def test_the_order_of_the_images_is_without_effect(images: tuple[Any, ...], random: Any) -> None:
    *columns, num_known = images
    order = list(range(len(columns[0])))
    random.shuffle(order)
    once = metrics.evaluate_open_set(*columns, num_known, 1)
    again = metrics.evaluate_open_set(*(column[order] for column in columns), num_known, 1)
    for name, value in once.items():
        assert again[name] == (None if value is None else pytest.approx(value, abs=1e-12)), name


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32, np.uint64])
def test_any_kind_of_whole_number(kind: Any) -> None:
    true, predicted, closed = (np.array(values, kind) for values in ([0, 1, 2, 2], [0, 2, 2, 1], [0, 1, 0, 1]))
    scores = np.array([3, 2, 1, 2])
    expected = metrics.evaluate_open_set(scores, *(v.astype(np.int64) for v in (predicted, closed, true)), 2, 1)
    assert metrics.evaluate_open_set(scores, predicted, closed, true, 2, 1) == expected


@pytest.mark.parametrize("metric", [*DETECTION, metrics.dense_ranks])
def test_every_metric_refuses_nan(metric: Any) -> None:
    arguments = ([0.5, np.nan, 0.1], [False, False, True])
    with pytest.raises(ValueError, match="1 of 3 images is not a number"):
        metric(*arguments[: 1 if metric is metrics.dense_ranks else 2])
    with pytest.raises(ValueError, match="not a number"):
        metrics.oscr([np.nan, 1.0], [0, 0], [0, 1], 1)
    with pytest.raises(ValueError, match="not a number"):
        bootstrap_intervals([np.nan, 1.0], [0, 0], [0, 0], [0, 1], 1, repeats=2)


@settings(max_examples=25)
@given(test_sets())
def test_intervals_hold_the_figure_of_what_cannot_vary(images: tuple[Any, ...]) -> None:
    """With one image of each class every resample is the test set itself."""
    knownness, predicted, closed, true, num_known = images
    classes = np.array([f"class {index}" for index in range(len(true))])
    predictions = Predictions(
        index=np.arange(len(true)), true_label=true, true_class=classes, predicted_label=predicted,
        closed_set_label=closed, knownness=knownness, class_scores=np.zeros((len(true), num_known)),
    )  # fmt: skip
    result = predictions.metrics()
    for name, interval in predictions.intervals(repeats=3).items():
        if interval is None:
            assert result[name] is None
        else:
            assert interval == (pytest.approx(result[name]), pytest.approx(result[name]))
