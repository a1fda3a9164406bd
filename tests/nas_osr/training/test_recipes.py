"""The schedules of the recipes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nas_osr.cli.sweep import option_names
from nas_osr.errors import UserError
from nas_osr.retrain.retrain_plan import plan_retrain
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.sweeps.sweep_file import read_sweep
from nas_osr.training.recipes import RECIPES, make_recipe


def test_schedules() -> None:
    paper, fast = make_recipe("paper", {}), make_recipe("fast", {})
    assert paper.factor(300)(10.7) == pytest.approx(0.992**10)
    factor = fast.factor(10)
    positions = np.linspace(0, 10, 1001)[:-1]
    values = [factor(position) for position in positions]
    assert max(values) == pytest.approx(1.0, abs=0.01)
    assert math.isclose(positions[int(np.argmax(values))], 2.0, abs_tol=0.02)
    assert values[-1] < 0.01 and min(values) > 0
    assert set(RECIPES) == {"paper", "cac", "adam", "gmvae", "gradmix", "fast", "strong"}
    cosine = make_recipe("gradmix", {}).factor(8)
    half = 0.5**1.5
    assert [cosine(position) for position in (0, 2, 4, 6, 8)] == pytest.approx([1, 0.5 + half, 0.5, 0.5 - half, 0])


def test_the_learning_rate_follows_the_batch() -> None:
    fast = make_recipe("fast", {})
    assert fast.for_batches(64).learning_rate == pytest.approx(fast.learning_rate / 2)
    assert fast.for_batches(128) == fast
    paper = make_recipe("paper", {})
    assert paper.for_batches(7) is paper
    with pytest.raises(UserError, match="reference_batch must not be negative"):
        make_recipe("fast", {"reference_batch": -1})


@pytest.mark.parametrize(
    ("protocol", "epochs", "second_stage", "decay", "crop", "rotation"),
    [
        ("mnist", 35, 35, 5e-6, 0.7, 0.0),
        ("svhn", 50, 50, 5e-6, 0.7, 0.0),
        ("cifar10", 200, 150, 5e-6, 0.8, 10.0),
        ("cifar+10", 200, 150, 5e-4, 0.8, 10.0),
        ("cifar+50", 200, 150, 5e-4, 0.8, 10.0),
        ("tinyimagenet", 800, 500, 1e-3, 0.7, 20.0),
    ],
)
def test_cac_is_trained_as_its_authors_did(
    protocol: str, epochs: int, second_stage: int, decay: float, crop: float, rotation: float
) -> None:
    """Network, rates, stages and views of each data set; the sweep has the epochs and batches."""
    recipe = (
        plan_retrain(RetrainRequest(protocol=protocol, network="cac", objective="cac", recipe="cac"))
        .parts[0]
        .training.schedule.recipe
    )
    assert (recipe.optimizer, recipe.learning_rate, recipe.momentum, recipe.keep) == ("sgd", 0.01, 0.9, "best")
    assert (recipe.weight_decay, recipe.augmentation, recipe.crop, recipe.rotation) == (decay, "search", crop, rotation)
    rates = [recipe.factor(epochs)(epoch) for epoch in range(epochs)]
    assert rates == [1.0] * second_stage + [0.1] * (epochs - second_stage)
    assert make_recipe("cac", {"rotation": 5.0}, protocol).rotation == 5.0  # what a user says wins
    runs = {run.name: run.options for run in read_sweep("cac-tables", option_names).runs}
    options = runs[f"cac-{protocol}"]
    assert (options["epochs"], options["batch_size"]) == (epochs, 32 if protocol == "cifar+50" else 128)
