"""The schedules of the recipes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nas_osr.errors import UserError
from nas_osr.retrain.recipes import RECIPES, make_recipe


def test_schedules() -> None:
    paper, fast = make_recipe("paper", {}), make_recipe("fast", {})
    assert paper.factor(300)(10.7) == pytest.approx(0.992**10)
    factor = fast.factor(10)
    positions = np.linspace(0, 10, 1001)[:-1]
    values = [factor(position) for position in positions]
    assert max(values) == pytest.approx(1.0, abs=0.01)
    assert math.isclose(positions[int(np.argmax(values))], 2.0, abs_tol=0.02)
    assert values[-1] < 0.01 and min(values) > 0
    assert set(RECIPES) == {"paper", "cac", "adam", "gmvae", "fast"}


def test_the_learning_rate_follows_the_batch() -> None:
    fast = make_recipe("fast", {})
    assert fast.for_batches(64).learning_rate == pytest.approx(fast.learning_rate / 2)
    assert fast.for_batches(128) == fast
    paper = make_recipe("paper", {})
    assert paper.for_batches(7) is paper
    with pytest.raises(UserError, match="reference_batch must not be negative"):
        make_recipe("fast", {"reference_batch": -1})
