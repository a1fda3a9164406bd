"""Estimates: saved bytes against hand counts, straight lines, data counts, and a search and retraining as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nas_osr.cli.show import duration, estimate_lines
from nas_osr.cost import estimate as cost
from nas_osr.cost import memory
from nas_osr.cost.estimate import (
    SavedBytes,
    count_memory,
    count_step,
    count_training_images,
    line,
    probe,
    time_call,
)
from nas_osr.cost.steps import Call, Step, leave_no_trace
from nas_osr.data.dataset import load_data
from nas_osr.data.protocols import make_protocol
from nas_osr.data.rehearsal import rehearse
from nas_osr.errors import UserError
from nas_osr.retrain.retrain_cost import count_images as count_retrain_images
from nas_osr.retrain.retrain_plan import plan_retrain
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.retrain.run import run_retrain
from nas_osr.strategies.pseudo_unknown import count_search_images
from nas_osr.strategies.run import run_search
from nas_osr.strategies.search_plan import plan_search
from nas_osr.strategies.search_request import SearchRequest
from nas_osr.training.fabric import make_fabric

CPU = torch.device("cpu")


class Squares(nn.Module):
    """Its backward pass needs three tensors besides the weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(5, 7))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        hidden = rows @ self.weight  # rows
        back = hidden @ self.weight.T  # hidden, and the weight
        return (back * back).sum()  # back, twice


def squares(module: nn.Module, count: int) -> Step:
    rows = torch.rand(count, 5)

    def run() -> None:
        module(rows).backward()

    return Step("squares", count, run, Call(run), lambda: None)


def test_saved_bytes_are_those_of_a_hand_count() -> None:
    """Float32 rows and back [n, 5], hidden [n, 7]; parameters and second uses of a tensor are not counted."""
    module = Squares()
    found = probe(squares(module, 3), module)
    assert found.activation_bytes == 4 * 3 * (5 + 7 + 5)
    assert found.flops == 5 * (2 * 3 * 5 * 7)  # twice forward, twice the weight's gradient, hidden's


def test_what_two_players_save_one_after_the_other_is_not_added() -> None:
    module = Squares()
    small, large = squares(module, 3), squares(module, 5)
    saved = SavedBytes(module)
    with saved.hooks():
        large.run()
        small.run()
    assert saved.peak == 4 * 5 * (5 + 7 + 5)


@given(st.integers(1, 100))
def test_costs_that_grow_with_the_batch_are_exact(images: int) -> None:
    module = Squares()
    found = count_step(lambda count: squares(module, count), module, images)
    assert (found.images, found.activation_bytes, found.flops) == (images, 68 * images, 350 * images)


def test_lines_pass_through_their_points_and_do_not_fall() -> None:
    assert line((2, 10.0), (4, 14.0), 10) == 26.0
    assert line((2, 10.0), (4, 14.0), 4) == 14.0
    assert line((2, 10.0), (4, 8.0), 10) == 8.0  # noise
    assert line((1, 3.0), (1, 3.0), 1) == 3.0


@pytest.mark.parametrize(
    ("fixed", "each", "sizes"), [(0.01, 0.002, [4, 16, 64]), (0.15, 0.004, [4, 16]), (1e-3, 0.0, [4, 16, 64, 128])]
)
def test_times_are_continued_from_small_batches(
    fixed: float, each: float, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, asked = [0.0], []
    monkeypatch.setattr(cost, "now", lambda device: clock[0])
    monkeypatch.setattr(cost.time, "process_time", lambda: 3 * clock[0])

    def make(count: int):
        asked.append(count)

        def call() -> None:
            clock[0] += fixed + each * count

        return call

    assert time_call(make, 128, CPU) == pytest.approx(fixed + 128 * each)
    assert asked == sizes


def test_memory_is_parameters_gradients_and_states() -> None:
    module = Squares()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    step = squares(module, 2)
    step.run()
    optimizer.step()
    costs = [cost.StepCost(images=2, flops=1, activation_bytes=size) for size in (10, 7)]
    found = count_memory(module, [optimizer], costs, 100)
    assert found == {"parameters": 140, "gradients": 140, "optimizers": 140, "activations": 10, "images": 100}
    assert sum(found.values()) == 530
    assert count_memory(module, [optimizer], costs, 100, captured=True) == {**found, "activations": 17}


def test_images_are_counted_about_as_they_are() -> None:
    plan = plan_search(SearchRequest(protocol="digits", preset="tiny", pseudo_unknown=[2, 4]))
    protocol, loaded = plan.protocol, plan.data.load()
    data, split = loaded.known, plan.divide(loaded)
    images = count_search_images(plan.data.count_known(), plan.classes, plan.rule_sample)
    assert images.half == pytest.approx(len(split.weight), rel=0.02)
    assert images.training == pytest.approx(len(split.training()), rel=0.02)
    assert images.judged == pytest.approx(len(split.fit_sample) + len(split.scored()), rel=0.02)
    [part] = plan_retrain(RetrainRequest(protocol="digits")).parts
    train, validation = count_retrain_images(part.data)
    assert train == pytest.approx(len(data.train), rel=0.02)
    assert validation == pytest.approx(len(data.validation), rel=0.02)
    rehearsed = load_data(rehearse(protocol, ["2", "4"]))
    [part] = plan_retrain(RetrainRequest(protocol="digits", pseudo_unknown=[2, 4])).parts
    train, validation = count_retrain_images(part.data)
    assert train == pytest.approx(len(rehearsed.train), rel=0.02)
    assert validation == pytest.approx(len(rehearsed.validation), rel=0.02)


def test_images_of_merged_classes_and_limits(tmp_path: Path) -> None:
    protocol = make_protocol("cifar10", known=[[0, 1], 2])
    assert count_training_images(protocol, None, None) == [10000, 5000]
    assert count_training_images(protocol, None, 30) == [60, 30]
    for part in ("train", "test"):
        for name, count in {"a": 3, "b": 5, "c": 4}.items():
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(count):
                (tmp_path / part / name / f"{index}.png").touch()
    own = make_protocol("folder", known=["a", "b"], data_dir=tmp_path)
    assert count_training_images(own, tmp_path, None) == [3, 5]
    assert count_training_images(own, tmp_path, 4) == [3, 4]


@pytest.mark.parametrize("objective", ["vae_contrastive", "supcon", "confidence"])
def test_the_counts_of_a_search_are_those_of_its_whole_batch(objective: str) -> None:
    """Views and players included. supcon compares pairs, which the straight line leaves out."""
    request = SearchRequest(
        protocol="digits", preset="tiny", layers=3, batch_size=24, pseudo_unknown=[2], objective=objective
    )
    plan = plan_search(request)
    with leave_no_trace():
        computed = plan.strategy.cost(plan, make_fabric("cpu", "32-true", 0))
        costs, needed = computed.count(flops=True)
        whole = [probe(make(24), computed.learner) for make in computed.steps.values()]
    for found, truth in zip(costs.values(), whole, strict=True):
        assert found.flops == pytest.approx(truth.flops, rel=0.02)
        assert found.activation_bytes == pytest.approx(truth.activation_bytes, rel=0.02)
    weights = [item for item in computed.learner.parameters() if item.requires_grad]
    assert needed["optimizers"] >= 2 * sum(item.nbytes for item in weights)  # Adam's two moments


TINY = {"protocol": "digits", "preset": "tiny", "device": "cpu", "threads": 1, "quiet": True, "batch_size": 16}


@pytest.mark.parametrize("kind", ["search", "retrain"])
def test_a_run_that_cannot_fit_is_refused_before_anything_is_written(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "system_memory", lambda proc: 2**20)
    out = tmp_path / "below" / "run"
    run = {
        "search": lambda: run_search(SearchRequest(**TINY, layers=3, out=str(out)), ["nas-osr"]),
        "retrain": lambda: run_retrain(RetrainRequest(**TINY, architecture="random:0", out=str(out)), ["nas-osr"]),
    }
    with pytest.raises(UserError, match=r"needs about .* GiB; cpu has 0.0 GiB free: lower --batch_size, --channels"):
        run[kind]()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["search", "retrain"])
def test_a_dry_run_says_what_it_costs(kind: str, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    out = str(tmp_path / "run")
    if kind == "search":
        config = SearchRequest(**TINY, layers=3, epochs=5, strategy_config={"warmup_epochs": 2}, dry_run=True, out=out)
        estimate = run_search(config, ["nas-osr"])["estimate"]
        steps = estimate["training_images"] // 16
        assert {name: step["count"] for name, step in estimate["steps"].items()} == {
            "weights": 5 * steps,
            "architecture": 3 * steps,
        }
    else:
        config_ = RetrainRequest(**TINY, architecture="random:0", splits="0-1", epochs=3, dry_run=True, out=out)
        estimate = run_retrain(config_, ["nas-osr"])["estimate"]
        assert estimate["parts"] == 2
        assert estimate["steps"]["retrain"]["count"] == pytest.approx(3 * estimate["training_images"] / 16, rel=0.05)
    assert torch.equal(torch.get_rng_state(), state)
    assert not (tmp_path / "run").exists()
    assert estimate["flops"] == sum(step["flops"] * step["count"] for step in estimate["steps"].values()) > 0
    spent = sum(step["seconds"] * step["count"] for step in estimate["steps"].values())
    assert estimate["seconds"] == pytest.approx(spent + estimate["scoring_seconds"])
    lines = estimate_lines(estimate)
    assert any("GFLOP" in text for text in lines) and any(text.startswith("memory: about") for text in lines)


def test_durations_read_well() -> None:
    assert [duration(seconds) for seconds in (3.14159, 100, 150, 9000)] == [
        "3.14 seconds",
        "100 seconds",
        "2.5 minutes",
        "2.5 hours",
    ]
