"""The predictor of scores, on networks whose score is known."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel

from nas_osr.strategies.trials.performance_predictor import learned_from
from nas_osr.strategies.trials.score_predictor import Description, ScorePredictor, fit_process

OPERATIONS, WIDTHS = ("skip", "conv", "pool"), ("1", "2")


def draw(count: int, seed: int) -> tuple[list[Description], np.ndarray]:
    """Networks of four cells and a width, and what their choices add up to."""
    generator = np.random.default_rng(seed)
    cells, widths = generator.integers(0, 3, (count, 4)), generator.integers(0, 2, count)
    worth = np.array([0.0, 1.0, -1.0])[cells] @ np.array([4.0, 3.0, 2.0, 1.0]) + 2.0 * widths
    rows = [
        Description(
            {
                **{f"cell {place}": (OPERATIONS[own], OPERATIONS) for place, own in enumerate(cell)},
                "width": (WIDTHS[width], WIDTHS),
            },
            (float(width), 1.0),
        )
        for cell, width in zip(cells, widths, strict=True)
    ]
    return rows, 0.5 + 0.01 * worth


def test_what_choices_add_is_learned_from_few_networks() -> None:
    rows, worth = draw(24, 0)
    others, wanted = draw(200, 1)
    predictor = ScorePredictor(rows, worth + 0.002 * np.random.default_rng(2).standard_normal(24))
    error = np.abs(predictor.predict(others) - wanted)
    assert error.mean() < 0.1 * wanted.std()
    # a choice that no trial had is one of which nothing is known
    assert np.isfinite(predictor.predict([Description({"cell 9": ("conv", OPERATIONS)}, (1.0, 1.0))])).all()


def test_equal_scores_foretell_the_same() -> None:
    rows, _ = draw(6, 3)
    assert ScorePredictor(rows, np.full(6, 0.25)).predict(rows) == pytest.approx([0.25] * 6)


def test_the_process_is_the_textbooks() -> None:
    rows, worth = draw(10, 4)
    predictor = ScorePredictor(rows, worth)
    x = predictor.encode(rows)
    kernel = ConstantKernel(2.0) * DotProduct(0.5) + ConstantKernel(0.7) * RBF(1.5) + WhiteKernel(0.2)
    found = fit_process(x, worth, kernel).predict(x)
    square = ((x[:, None] - x[None]) ** 2).sum(axis=2)
    covariance = 2.0 * (x @ x.T + 0.25) + 0.7 * np.exp(-square / 2 / 1.5**2)
    scaled = (worth - worth.mean()) / worth.std()
    wanted = covariance @ np.linalg.solve(covariance + (0.2 + 1e-10) * np.eye(10), scaled)
    assert found == pytest.approx(worth.mean() + worth.std() * wanted, rel=1e-9)


def test_smoothness_is_learned_anew_after_a_quarter_more_trials() -> None:
    assert [learned_from(8, trials) for trials in (8, 9, 10, 11, 12, 15, 18, 100)] == [8, 8, 10, 10, 12, 15, 18, 97]
    assert [learned_from(2, trials) for trials in (2, 3, 4)] == [2, 3, 4]
