"""Recipes: their schedules, and which settings are read."""

from __future__ import annotations

import math
from dataclasses import asdict, fields, replace

import numpy as np
import pytest

from nas_osr.cli.sweep import option_names
from nas_osr.data.augmentation import CHANGES, Magnitudes
from nas_osr.errors import UserError
from nas_osr.objectives import objective_class
from nas_osr.retrain.retrain_plan import plan_retrain
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.strategies.search_plan import plan_search
from nas_osr.strategies.search_request import SearchRequest
from nas_osr.sweeps.sweep_file import read_sweep
from nas_osr.training.recipes import READ_BY_AUGMENTATION, READ_BY_SCHEDULE, RECIPES, SCHEDULES, make_recipe


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


@pytest.mark.parametrize(
    ("recipe", "optimizer", "rate", "usual"),
    [("strong", "muon", "0.002", "0.1"), ("fast", "adam", "0.001", "0.2"), ("adam", "sgd", "0.01", "0.001")],
)
def test_another_optimizer_needs_its_own_rate(recipe: str, optimizer: str, rate: str, usual: str) -> None:
    message = f"recipe {recipe}: its learning rate {usual} is for .*: give one for {optimizer}, such as .* {rate}$"
    with pytest.raises(UserError, match=message):
        make_recipe(recipe, {"optimizer": optimizer})
    made = make_recipe(recipe, {"optimizer": optimizer, "learning_rate": float(rate)})
    assert (made.optimizer, made.learning_rate) == (optimizer, float(rate))
    same = RECIPES[recipe].get("optimizer", "sgd")
    assert make_recipe(recipe, {"optimizer": same}) == make_recipe(recipe, {})


def test_adam_has_no_momentum_of_the_recipes() -> None:
    made = make_recipe("strong", {"optimizer": "adam", "learning_rate": 1e-3})
    assert not made.nesterov and made.momentum == 0.9
    with pytest.raises(UserError, match="recipe adam: momentum does nothing with optimizer adam: leave it out"):
        make_recipe("adam", {"momentum": 0.5})
    with pytest.raises(UserError, match="nesterov does nothing with optimizer adam"):
        make_recipe("strong", {"optimizer": "adam", "learning_rate": 1e-3, "nesterov": True})
    assert make_recipe("strong", {"optimizer": "muon", "learning_rate": 1e-3, "momentum": 0.5}).momentum == 0.5


@pytest.mark.parametrize(
    ("recipe", "settings", "message"),
    [
        ("fast", {"decay": 0.5}, "decay does nothing with schedule triangle"),
        ("paper", {"rise": 0.5}, "rise does nothing with schedule exponential"),
        ("gradmix", {"first_stage": 0.5}, "first_stage does nothing with schedule cosine"),
        ("strong", {"cutout": 12}, "cutout does nothing with augmentation crop_flip"),
        ("strong", {"rotation": 20.0}, "rotation does nothing with augmentation crop_flip"),
        ("paper", {"augmentation": "none", "crop": 0.5}, "crop does nothing with augmentation none"),
        ("paper", {"augmentation": "crop_flip,pixmix", "changes": 2}, "changes does nothing with augmentation crop_f"),
    ],
)
def test_what_nothing_reads_is_refused(recipe: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=f"recipe {recipe}: {message}"):
        make_recipe(recipe, settings)


@pytest.mark.parametrize("name", RECIPES)
def test_what_a_run_records_makes_the_same_recipe(name: str) -> None:
    for protocol in ("cifar10", "mnist", "tinyimagenet"):
        for settings in ({}, {"augmentation": "none"}, {"optimizer": "adam", "learning_rate": 0.01}):
            made = make_recipe(name, settings, protocol)
            assert make_recipe(name, asdict(made), protocol) == made
            assert made.idle.keys() <= vars(made).keys()


def test_what_is_read_is_known() -> None:
    """Each schedule and each augmentation of the two tables is one that there is."""
    assert {one for several in READ_BY_SCHEDULE.values() for one in several} <= set(SCHEDULES)
    assert set().union(*READ_BY_AUGMENTATION.values()) == {"search", "crop_flip", *CHANGES}
    assert set(READ_BY_AUGMENTATION) == {"crop", *(item.name for item in fields(Magnitudes))}


@pytest.mark.parametrize("objective", ["supcon", "moco", "conosr"])
def test_objectives_that_make_views_are_given_images_as_they_are(objective: str) -> None:
    """It is said, and another augmentation is refused, in a retraining and in a search."""
    kind = objective_class(objective)
    assert kind.view_settings and set(kind.view_settings) <= {item.name for item in fields(kind.config_class)}
    request = RetrainRequest(protocol="digits", network="resnet18", objective=objective, recipe="strong")
    [part] = plan_retrain(request).parts
    assert part.recorded["recipe_config"]["augmentation"] == "none"
    again = RetrainRequest(**part.recorded)  # what config.yaml holds
    assert plan_retrain(again).parts[0].recorded == part.recorded
    for given in ("crop_flip", "none"):  # the recipe's own, as earlier versions recorded it
        plan_retrain(replace(request, recipe_config={"augmentation": given}))
    message = f"objective {objective} makes its own views of images, by --objective_config.{kind.view_settings[0]}"
    with pytest.raises(UserError, match=f"--recipe_config.augmentation: {message}"):
        plan_retrain(replace(request, recipe_config={"augmentation": "pixmix"}))
    with pytest.raises(UserError, match="recipe strong: padding does nothing with augmentation none"):
        plan_retrain(replace(request, recipe_config={"padding": 2}))
    searched = SearchRequest(protocol="digits", preset="tiny", objective=objective)
    plan = plan_search(searched)
    assert plan.recorded["augmentation"] == plan.weights.recipe.augmentation == "none"
    with pytest.raises(UserError, match=f"--augmentation: {message}"):
        plan_search(replace(searched, augmentation="crop_flip"))
