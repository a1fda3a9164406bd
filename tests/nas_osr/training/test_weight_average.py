"""The average of the weights: its formula, what it holds, and that a retraining judges and saves it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import nas_osr
from nas_osr.errors import UserError
from nas_osr.retrain.model_reading import open_model
from nas_osr.retrain.reopen import load_learner, read_run
from nas_osr.runs.run_folder import RunFolder
from nas_osr.training.recipes import RECIPES, make_recipe
from nas_osr.training.weight_average import WeightAverage


def make_network() -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2, bias=False))
    network.add_module("tied", nn.Linear(4, 2, bias=False))
    network.tied.weight = network[2].weight
    return network


def steps_of(network: nn.Module, count: int) -> Iterator[list[dict[str, np.ndarray]]]:
    """Train, and say what the state was after each step."""
    optimizer, seen = torch.optim.SGD(network.parameters(), lr=0.5), []
    for step in range(count):
        loss = network[2](network[1](network[0](torch.randn(8, 3, generator=torch.Generator().manual_seed(step)))))
        optimizer.zero_grad()
        loss.square().sum().backward()
        optimizer.step()
        seen.append({name: value.numpy().copy() for name, value in network.state_dict().items()})
        yield seen


def test_it_is_the_exponential_average_of_weights_and_statistics() -> None:
    network = make_network()
    average, expected = WeightAverage(network, 0.5), None
    for count, seen in enumerate(steps_of(network, 30)):
        average.update()
        decay = min(0.5, (1 + count) / (10 + count))
        last = seen[-1]
        before = expected or last
        expected = {name: decay * before[name] + (1 - decay) * last[name] for name in last}
    names = {"0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "2.weight"}
    assert set(average.weights) == names and expected is not None
    for name, value in average.weights.items():
        np.testing.assert_allclose(value.numpy(), expected[name], rtol=1e-4, atol=1e-6)
        assert value.dtype == torch.float32
    assert average.steps == 30


def test_it_changes_places_and_back_bit_for_bit() -> None:
    network = make_network()
    average = WeightAverage(network, 0.9)
    for _ in steps_of(network, 4):
        average.update()
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    averaged = {name: value.clone() for name, value in average.weights.items()}
    with average.in_place():
        assert all(torch.equal(network.state_dict()[name], value) for name, value in averaged.items())
        assert network.tied.weight is network[2].weight
    assert all(torch.equal(network.state_dict()[name], value) for name, value in weights.items())
    assert all(torch.equal(average.weights[name], value) for name, value in averaged.items())


def test_before_the_first_step_there_is_none() -> None:
    network = make_network()
    average, before = WeightAverage(network, 0.9), network[0].weight.clone()
    with average.in_place():
        assert torch.equal(network[0].weight, before)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_have_one(name: str) -> None:
    assert make_recipe(name, {}).averaging == 0
    assert make_recipe(name, {"averaging": 0.99}).averaging == 0.99
    with pytest.raises(UserError, match="averaging must lie in"):
        make_recipe(name, {"averaging": 1.0})


@pytest.mark.parametrize("keep", ["last", "best"])
def test_a_retraining_judges_and_saves_the_average(tmp_path: Path, keep: str) -> None:
    common: dict[str, Any] = {
        "protocol": "digits", "preset": "tiny", "limit_per_class": 40, "architecture": "random:0", "epochs": 3,
        "objective": "cross_entropy", "batch_size": 32, "quiet": True, "device": "cpu", "threads": 1,
    }  # fmt: skip
    settings = {"averaging": 0.95, "keep": keep}
    parts = {}
    for name, config in (("plain", {"keep": keep}), ("averaged", settings)):
        nas_osr.train(**common, recipe_config=config, out=str(tmp_path / name))
        parts[name] = RunFolder.open(tmp_path / name / "split-0")
    for plain, averaged in zip(*(part.read_history() for part in parts.values()), strict=True):
        assert plain["losses"] == averaged["losses"]  # the training is the same
        assert plain["monitors"]["embedding_spread"] != averaged["monitors"]["embedding_spread"]

    state = parts["averaged"].load_checkpoint()
    model = open_model(tmp_path / "averaged").learner.state_dict()
    reopened = load_learner(read_run(parts["averaged"])).state_dict()
    kept = state["best"]["weights"] if keep == "best" else state["average"]["weights"]
    assert state["average"]["steps"] == 3 * (216 // 32)  # a tenth of the 240 images sets thresholds
    for name, value in kept.items():
        assert torch.equal(model[name], value) and torch.equal(reopened[name], value), name
    trained = parts["plain"].load_checkpoint()["learner"]
    assert all(torch.equal(state["learner"][name], value) for name, value in trained.items())
    assert not torch.equal(model["objective.classifier.weight"], trained["objective.classifier.weight"])
