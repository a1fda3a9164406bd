"""The conformal guarantee: what is promised holds, and not much more is given away."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nas_osr
from nas_osr import OpenSetModel, UserError
from nas_osr.deploy.calibration import calibrate_model, conformal_rank, conformal_threshold, images_needed
from nas_osr.deploy.predictor import Answers

ACCEPTS = st.integers(1, 999).map(lambda number: number / 1000)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), ACCEPTS)
def test_the_promise_holds_for_any_images(values: list[int], accept: float) -> None:
    """Exchangeable images: each of n + 1 is as likely to be the one to come, so that the promise can be counted out."""
    if len(values) - 1 < images_needed(accept):
        with pytest.raises(UserError, match=f"needs {images_needed(accept)} images"):
            conformal_threshold(np.array(values[1:], dtype=float), accept)
        return
    accepted = 0
    for index, new in enumerate(values):
        others = np.array(values[:index] + values[index + 1 :], dtype=float)
        accepted += new >= conformal_threshold(others, accept)
    assert Fraction(accepted, len(values)) >= Fraction(str(accept))
    if len(set(values)) == len(values):  # no two alike: and it is not more than one image above
        assert Fraction(accepted, len(values)) < Fraction(str(accept)) + Fraction(1, len(values))


def test_known_ranks() -> None:
    for accept, needed in {0.95: 19, 0.9: 9, 0.99: 99, 0.5: 1, 0.7: 3, 2 / 3: 2}.items():
        assert images_needed(accept) == needed
        assert conformal_rank(needed, accept) >= 1 and conformal_rank(needed - 1, accept) == 0
    assert conformal_threshold(np.arange(19.0), 0.95) == 0 and conformal_threshold(np.arange(99.0)[::-1], 0.95) == 4
    for accept in (0, 1, -0.5, 95, True, math.nan):
        with pytest.raises(UserError, match="strictly between 0 and 1"):
            images_needed(accept)


def test_simulated_coverage_of_every_predicted_class(trained) -> None:
    """Three classes of very different knownness: with a threshold each, each is accepted as promised."""
    model, generator = nas_osr.load(trained, device="cpu"), np.random.default_rng(0)

    def draw(count: int) -> Answers:
        nearest = generator.integers(0, 6, count)
        knownness = generator.normal(nearest, 2.0)
        return Answers(nearest, nearest, knownness, knownness, np.zeros((count, 6)))

    whole, by_class = [], []
    for _ in range(60):
        answers, new = draw(300), draw(2000)
        one = OpenSetModel(calibrate_model(model, answers, 0.8), "cpu")
        each = OpenSetModel(calibrate_model(model, answers, 0.8, per_class=True), "cpu")
        whole.append([np.mean((new.knownness >= one.thresholds[new.nearest])[new.nearest == c]) for c in range(6)])
        by_class.append([np.mean((new.knownness >= each.thresholds[new.nearest])[new.nearest == c]) for c in range(6)])
    assert len(set(one.thresholds)) == 1 and len(set(each.thresholds)) == 6
    # 0.8 up to 0.8 + 1/51, within four standard errors; one threshold for all misses it for single classes
    error = 4 * math.sqrt(0.8 * 0.2 / 51 / 60)
    assert ((np.mean(by_class, axis=0) > 0.8 - error) & (np.mean(by_class, axis=0) < 0.8 + 1 / 51 + error)).all()
    assert abs(np.mean(whole) - 0.8) < error and np.mean(whole, axis=0).max() - np.mean(whole, axis=0).min() > 0.1


def test_too_few_of_a_class_are_refused(trained) -> None:
    model = nas_osr.load(trained, device="cpu")
    nearest = np.repeat(np.arange(6), [9, 9, 9, 9, 8, 0])
    answers = Answers(nearest, nearest, nearest + 0.0, nearest + 0.0, np.zeros((len(nearest), 6)))
    with pytest.raises(UserError, match=r"needs 9 images .* fewer for 8 8, 3 0: add some, or leave --per_class out"):
        calibrate_model(model, answers, 0.9, per_class=True)
    before = model.model.rule.threshold
    calibrated = calibrate_model(model, answers, 0.9)
    assert calibrated.rule.threshold == 0.0 and model.model.rule.threshold == before != 0.0
