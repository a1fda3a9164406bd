"""Single paths: which are drawn, what a step does to them, and what they inherit."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch

from nas_osr.data.dataset import LabelledImages
from nas_osr.search_spaces.network import DiscreteNetwork, inherit_weights
from nas_osr.search_spaces.space import Space
from nas_osr.search_spaces.spaces import Wide
from nas_osr.strategies.base import SearchPlan
from nas_osr.strategies.inherited import inheriting
from nas_osr.strategies.sampled.drawn_paths import draw_paths, path_step
from nas_osr.strategies.sampled.path_training import build_paths
from nas_osr.strategies.search_plan import plan_search
from nas_osr.strategies.search_request import SearchRequest
from nas_osr.training.learner import Learner, weight_step

SPACES = {"paper": Space(5, 16), "branches": Space(5, 16, branches=(0, 2)), "wide": Space(**asdict(Wide(4, 8)))}


def plan(**changes: Any) -> SearchPlan:
    settings: dict[str, Any] = {
        "protocol": "digits", "preset": "tiny", "strategy": "single_path", "objective": "cross_entropy",
        "threads": 1, "device": "cpu",
    }  # fmt: skip
    return plan_search(SearchRequest(**{**settings, **changes}))


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("seed", range(3))
def test_fair_paths_have_every_operation_of_a_cell_once(space: Space, seed: int) -> None:
    own = replace(plan(), space=space)
    paths = draw_paths(own, "fair", seed)
    assert len(paths) == len(space.selectable)
    assert len({tuple(tuple(way.path) for way in path.ways()) for path in paths}) == 1
    for cell in paths[0].chosen_cells():
        assert sorted(path.chosen_cells()[cell] for path in paths) == sorted(space.selectable)
    for name, candidates in space.choices.items():
        counts = Counter(path.choices[name] for path in paths)
        if name != "output":
            assert max(counts.values()) - min(counts.values() if len(counts) == len(candidates) else [0]) <= 1
    orders = {tuple(path.chosen_cells()[cell] for path in paths) for cell in paths[0].chosen_cells()}
    assert len(orders) > 1  # not one order for all cells
    assert draw_paths(own, "fair", seed) == paths


def test_uniform_paths_are_one_and_differ() -> None:
    own = replace(plan(), space=SPACES["paper"])
    drawn = [draw_paths(own, "uniform", seed) for seed in range(20)]
    assert all(len(paths) == 1 for paths in drawn)
    assert len({str(paths[0].describe()) for paths in drawn}) > 10


@pytest.mark.parametrize("how", ["uniform", "fair"])
def test_no_path_above_a_budget_is_trained(how: str) -> None:
    """Of random networks one in thirty fits here."""
    own = plan(max_params="20k")
    for seed in range(3 if how == "uniform" else 6):
        assert all(own.budget.fits(path) for path in draw_paths(own, how, seed))


@pytest.mark.parametrize("space", ["paper", None])
def test_a_step_of_one_path_is_a_step_of_the_discrete_network(space: str | None) -> None:
    """With the same weights: losses, gradient norm, and weights afterwards; all others stay as they were."""
    own = plan(space=space)
    fabric = own.machine.open()
    torch.manual_seed(0)
    learner, optimizers, schedule = build_paths(own, torch.zeros(0), fabric)
    learner.train()
    supernet, heads = learner.module.encoder, learner.module.objective
    (path,) = draw_paths(own, "uniform", 5)
    network = own.make_encoder(DiscreteNetwork, path).to(memory_format=torch.channels_last)
    inherit_weights(network, supernet, path)
    other = Learner(network, own.make_heads(network, torch.zeros(0)))
    other.objective.load_state_dict(heads.state_dict())
    wrapped, others, _ = own.weights.set_up(other, fabric, own.protocol, 0)
    wrapped.train()
    images, labels = torch.rand(16, *own.protocol.image_shape), torch.arange(16) % 4
    before = {name: value.clone() for name, value in supernet.named_parameters()}
    found = path_step(fabric, learner, optimizers, [path], images, labels, 0.5, schedule.clip, schedule.scale)
    expected = weight_step(fabric, wrapped, others, images, labels, 0.5, schedule.clip, schedule.scale)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value.detach(), rtol=1e-4, atol=1e-5)
    after = own.make_encoder(DiscreteNetwork, path)
    inherit_weights(after, supernet, path)
    for one, two in zip(after.state_dict().values(), network.state_dict().values(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)
    changed = [name for name, value in supernet.named_parameters() if not torch.equal(value, before[name])]
    assert len(changed) == len(list(network.parameters()))


def test_a_fair_step_has_the_mean_gradient_of_its_paths() -> None:
    own = plan()
    fabric = own.machine.open()
    torch.manual_seed(0)
    learner, optimizers, _ = build_paths(own, torch.zeros(0), fabric)
    learner.train()
    images, labels = torch.rand(16, *own.protocol.image_shape), torch.arange(16) % 4
    paths = draw_paths(own, "fair", 1)
    stem = next(learner.module.encoder.network.stem.parameters())
    gradients = []
    for path in paths:
        learner.module.encoder.follow(path)
        loss = torch.stack(list(learner(images, labels, "main", 0.5).values())).sum()
        gradients.append(torch.autograd.grad(loss, stem)[0])
    path_step(fabric, learner, optimizers, paths, images, labels, 0.5, clip=0, scale=1)
    torch.testing.assert_close(stem.grad, torch.stack(gradients).mean(0), rtol=1e-4, atol=1e-6)


def test_what_is_tried_has_the_batch_statistics_of_its_own_path() -> None:
    own = plan()
    fabric = own.machine.open()
    torch.manual_seed(0)
    learner, _, _ = build_paths(own, torch.zeros(0), fabric)
    supernet = learner.module.encoder
    (path,) = draw_paths(own, "uniform", 5)
    shape = own.protocol.image_shape
    pixels = torch.randint(256, (500, *shape), dtype=torch.uint8)
    sample = LabelledImages(pixels, torch.zeros(500, dtype=torch.long), torch.zeros(500, dtype=torch.long))
    state = {name: value.clone() for name, value in supernet.state_dict().items()}
    network = inheriting(supernet, path, own, fabric, sample)
    assert not network.training and all(
        torch.equal(value, state[name]) for name, value in supernet.state_dict().items()
    )
    seen: list[torch.Tensor] = []
    norm = next(module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d))
    norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network(pixels.float() / 255)  # the first has the images' own statistics before it, whatever the batch
    torch.testing.assert_close(norm.running_mean, seen[0].mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert norm.momentum is None


def test_settings_that_do_not_go_together_are_refused() -> None:
    from nas_osr.errors import UserError

    with pytest.raises(UserError, match="tournament must be at most the population, 2, got 3"):
        plan(strategy_config={"population": 2, "tournament": 3})
    with pytest.raises(UserError, match="compile: single_path has another network in every step"):
        plan(compile=True)
    with pytest.raises(UserError, match="jobs: strategy single_path trains one network"):
        plan(jobs=2)
    assert replace(plan()).strategy.records(plan(epochs=5)) == 45
