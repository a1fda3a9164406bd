"""What is noticed of a training that diverges or collapses: which term, which step, and what a warning needs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from nas_osr.data.augmentation import AugmentationConfig
from nas_osr.data.dataset import LabelledImages
from nas_osr.errors import UserError
from nas_osr.objectives.base import Objective
from nas_osr.outputs import FeatureShapes, Outputs
from nas_osr.runs.progress import ProgressReporter
from nas_osr.runs.recorder import Unkept
from nas_osr.training.epochs import Schedule, Trainer, train_epoch
from nas_osr.training.fabric import make_fabric
from nas_osr.training.learner import Learner, weight_step
from nas_osr.training.monitors import (
    CHECK_EVERY,
    FiniteWatch,
    chance_accuracy,
    check_weights,
    embedding_spread,
    explosion_warnings,
    gradient_norm,
    monitor_retraining,
    split_norms,
)
from nas_osr.training.step_checkpoints import StepCheckpoints

BAD = (math.nan, math.inf, -math.inf)
IMAGES = torch.arange(24, dtype=torch.uint8).view(6, 1, 2, 2)
LABELS = torch.tensor([0, 1, 0, 1, 1, 0])


class Scripted(Objective):
    """Its terms are scripted by step; `grow` has a finite value and the gradient that is asked for."""

    name = "scripted"
    provides = frozenset()

    def __init__(self, values: dict[int, float] | None = None, slopes: dict[int, float] | None = None) -> None:
        super().__init__(FeatureShapes({}, {}), (1, 2, 2), 2, None)
        self.weight = nn.Parameter(torch.ones(()))
        self.values, self.slopes, self.step = values or {}, slopes or {}, -1

    def losses(
        self, encoder: nn.Module, batch: tuple[Tensor, Tensor], player: str = "main", progress: float = 1.0
    ) -> dict[str, Tensor]:
        self.step += 1
        slope = self.slopes.get(self.step, 0.01)
        moved = self.weight * 1.0
        if moved.requires_grad:
            moved.register_hook(lambda gradient: gradient * slope)
        return {
            "grow": moved - moved.detach() + 1.0,
            "term": 0.0 * self.weight + self.values.get(self.step, 2.0),
        }


def epoch_of(
    objective: Objective, steps: int, lr: float = 0.1, clip: float = 0.0, kind: type[Trainer] = Trainer
) -> dict[str, float]:
    learner = Learner(nn.Identity(), objective)
    optimizer = torch.optim.SGD(objective.parameters(), lr=lr)
    images = LabelledImages(IMAGES.repeat(steps, 1, 1, 1), LABELS.repeat(steps), LABELS.repeat(steps))
    schedule = Schedule(20, len(IMAGES), lambda _: 1.0, clip, 1.0, AugmentationConfig("none"), 0)
    trainer = kind(make_fabric("cpu", "32-true", 0), learner, {"main": optimizer}, images, schedule)
    return train_epoch(trainer, 4, StepCheckpoints(Unkept(ProgressReporter(1)), torch.device("cpu"), dict, None))


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("step", [0, 7, 11])
def test_a_term_that_is_not_finite_is_named_with_its_step(bad: float, step: int) -> None:
    message = f"diverged: loss term 'term' is not finite in step {step + 1} of 12 of epoch 5 of 20; lower the learning"
    with pytest.raises(UserError, match=message):
        epoch_of(Scripted({step: bad}), 12)


@pytest.mark.parametrize("clip", [0.0, 5.0])
def test_a_gradient_that_is_not_finite_is_told_from_the_losses_that_follow(clip: float) -> None:
    # from the next step on every loss is NaN, since the weights are
    with pytest.raises(UserError, match="gradient of player 'main' is not finite in step 4 of 9 .* while its loss is"):
        epoch_of(Scripted(slopes={3: math.inf}), 9, clip=clip)


def test_what_comes_first_in_a_step_is_named() -> None:
    def other() -> dict[str, Tensor]:
        return {"architecture/term": torch.tensor(math.nan if objective.step >= 2 else 0.0)}

    class After(Trainer):
        def step(self, batches: Any, progress: float) -> Iterator[dict[str, Tensor]]:
            yield from super().step(batches, progress)
            yield other()

    class Before(Trainer):
        def step(self, batches: Any, progress: float) -> Iterator[dict[str, Tensor]]:
            yield other()
            yield from super().step(batches, progress)

    objective = Scripted({2: math.nan})
    with pytest.raises(UserError, match="loss term 'term' is not finite in step 3 "):
        epoch_of(objective, 6, kind=After)
    objective = Scripted({3: math.nan})
    with pytest.raises(UserError, match="'architecture/term' is not finite in step 4 "):
        epoch_of(objective, 6, kind=Before)


def test_a_later_player_is_not_blamed_for_an_earlier_ones_gradient() -> None:
    watch = FiniteWatch()
    good = {"real": torch.tensor(1.0), "gradient_norm/discriminator": torch.tensor(1.0), "ce": torch.tensor(1.0)}
    watch.see(good, 0)
    assert watch.first_bad() is None
    watch.see({**good, "gradient_norm/discriminator": torch.tensor(math.inf), "ce": torch.tensor(math.nan)}, 1)
    watch.see({name: torch.tensor(math.nan) for name in good}, 2)
    assert watch.first_bad() == (1, ["gradient_norm/discriminator"])
    watch = FiniteWatch()
    watch.see({"ce": torch.tensor(math.nan), "kl": torch.tensor(math.inf), "ok": torch.tensor(0.0)}, 0)
    with pytest.raises(UserError, match="loss terms 'ce', 'kl' are not finite in step 1 of 2 "):
        watch.check(0, 1, 2)


def test_divergence_is_noticed_long_before_the_epoch_ends() -> None:
    objective = Scripted({3: math.nan})
    with pytest.raises(UserError, match=f"in step 4 of {3 * CHECK_EVERY} "):
        epoch_of(objective, 3 * CHECK_EVERY)
    assert objective.step == CHECK_EVERY - 1


def test_weights_that_the_last_step_broke_are_noticed() -> None:
    # the loss and its gradient are finite, their product with the learning rate is not
    with pytest.raises(UserError, match=r"objective.weight is not finite after epoch 5 of 20"):
        epoch_of(Scripted(slopes={2: 1e10}), 3, lr=1e30)


def test_running_statistics_are_looked_at_and_constants_are_not() -> None:
    norm = nn.BatchNorm2d(2)
    norm.register_buffer("mask", torch.tensor([0.0, -math.inf]))
    check_weights(norm, 0, 1)
    norm.running_var[1] = math.inf
    with pytest.raises(UserError, match="running_var is not finite after epoch 1 of 1"):
        check_weights(norm, 0, 1)


@given(st.lists(st.lists(st.sampled_from([1.0, 0.0, *BAD]), min_size=3, max_size=3), max_size=6))
def test_first_bad_is_what_a_loop_finds(steps: list[list[float]]) -> None:
    watch = FiniteWatch()
    expected = None
    for step, values in enumerate(steps):
        watch.see({f"t{index}": torch.tensor(value) for index, value in enumerate(values)}, step)
        bad = [f"t{index}" for index, value in enumerate(values) if not math.isfinite(value)]
        if bad and expected is None:
            expected = (step, bad)
    assert watch.first_bad() == expected


class Linear(Objective):
    """A squared error, whose gradient is known by hand."""

    name = "linear"
    provides = frozenset()

    def __init__(self) -> None:
        super().__init__(FeatureShapes({}, {}), (1, 2, 2), 2, None)
        self.weight, self.unused = nn.Parameter(torch.tensor([3.0, -4.0])), nn.Parameter(torch.ones(2))

    def losses(
        self, encoder: nn.Module, batch: tuple[Tensor, Tensor], player: str = "main", progress: float = 1.0
    ) -> dict[str, Tensor]:
        return {"half_square": 0.5 * self.weight.square().sum()}


@pytest.mark.parametrize("clip", [0.0, 0.5, 100.0])
def test_gradient_norm_is_that_before_clipping(clip: float) -> None:
    objective = Linear()
    optimizer = torch.optim.SGD(objective.parameters(), lr=1.0)
    fabric = make_fabric("cpu", "32-true", 0)
    learner = Learner(nn.Identity(), objective)
    terms = weight_step(fabric, learner, {"main": optimizer}, IMAGES.float(), LABELS, 1.0, clip, scale=0.5)
    losses, norms = split_norms({name: float(value.detach()) for name, value in terms.items()})
    assert losses == {"half_square": 12.5}
    assert norms == {"main": pytest.approx(10.0)}  # |(3, -4)| / scale
    moved = float((objective.weight - torch.tensor([3.0, -4.0])).norm())
    assert moved == pytest.approx(min(10.0, clip or 10.0), rel=1e-4)


def test_gradient_norm_of_nothing_is_zero() -> None:
    assert float(gradient_norm([nn.Parameter(torch.ones(3))])) == 0.0


@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.sampled_from([1e-20, 1.0, 1e20]))
def test_spread_is_the_root_of_the_total_variance(seed: int, count: int, size: float) -> None:
    vectors = np.random.default_rng(seed).normal(size=(count, 5)) + 1.0
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = math.sqrt(units.var(axis=0).sum())
    assert embedding_spread(torch.tensor(vectors * size)) == pytest.approx(expected, abs=1e-7)


def test_spread_of_the_extremes() -> None:
    assert embedding_spread(torch.ones(4, 3)) == 0.0
    assert embedding_spread(torch.zeros(4, 3)) == 0.0
    assert embedding_spread(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])) == 1.0
    assert embedding_spread(torch.tensor([[1.0, math.nan]])) is None


def test_chance_is_the_largest_class() -> None:
    labels = torch.tensor([0] * 30 + [1] * 70)
    assert chance_accuracy(labels) == pytest.approx(0.7 + 2 * math.sqrt(0.7 * 0.3 / 100))


def record(loss: float, norm: float | None = 1.0) -> dict[str, Any]:
    monitors = {} if norm is None else {"monitors": {"gradient_norm": {"main": norm}}}
    return {"losses": {"ce": loss, "architecture/ce": 1e9}, **monitors}


def test_explosions_are_tenfold_in_an_epoch() -> None:
    history = [record(1.0), record(-2.0), record(1.0)]
    assert explosion_warnings({"ce": 19.0}, {"main": 9.0}, history) == {}
    found = explosion_warnings({"ce": 21.0, "architecture/ce": 0.0}, {"main": 11.0}, history)
    assert set(found) == {"loss", "gradient"} and "main is 11" in found["gradient"]
    assert set(explosion_warnings({"ce": -21.0}, {"main": 0.0}, history)) == {"loss"}
    assert explosion_warnings({"ce": 1e9}, {"main": 1e9}, history[:2]) == {}
    old = [record(1.0, None)] * 3  # records of a version without monitors
    assert set(explosion_warnings({"ce": 21.0}, {"main": 1e9}, old)) == {"loss"}


def test_a_retraining_that_learns_nothing_is_warned_of() -> None:
    torch.manual_seed(0)
    labels = torch.arange(300) % 3
    right = nn.functional.one_hot(labels, 3).float()
    history = [record(1.0), record(1.0)]
    fine = monitor_retraining({"ce": 1.0}, {"main": 2.0}, Outputs(logits=right, embedding=right), labels, history)
    assert fine["warnings"] == {} and fine["gradient_norm"] == {"main": 2.0}
    assert fine["embedding_spread"] == pytest.approx(math.sqrt(2 / 3))
    same = torch.ones(300, 3) + 1e-4 * torch.randn(300, 3)
    stuck = monitor_retraining({"ce": 1.0}, {}, Outputs(logits=torch.ones(300, 3), embedding=same), labels, history)
    assert set(stuck["warnings"]) == {"embedding", "chance"}
    early = monitor_retraining({"ce": 1.0}, {}, Outputs(logits=torch.ones(300, 3)), labels, history[:1])
    assert early == {"gradient_norm": {}, "embedding_spread": None, "warnings": {}}
