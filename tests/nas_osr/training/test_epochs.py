"""The weight update: players, schedules, losses read once, and what the architecture step must not touch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas_osr.data.augmentation import AugmentationConfig
from nas_osr.data.dataset import LabelledImages
from nas_osr.errors import UserError
from nas_osr.objectives.base import Objective
from nas_osr.objectives.parts.freezing import frozen
from nas_osr.outputs import FeatureShapes
from nas_osr.runs.progress import ProgressReporter
from nas_osr.runs.recorder import Unkept
from nas_osr.training.epochs import Schedule, Trainer, train_epoch
from nas_osr.training.fabric import choose_device, make_fabric
from nas_osr.training.learner import Learner, weight_step
from nas_osr.training.monitors import LossMeter
from nas_osr.training.step_checkpoints import StepCheckpoints


class TwoPlayers(Objective):
    """`main` pulls a linear head to the labels, `other` pulls its own number to the head's mean."""

    name = "two_players"
    players = ("main", "other")
    provides = frozenset()

    def __init__(self) -> None:
        super().__init__(FeatureShapes({}, {}), (1, 1, 1), 2, None)
        self.head = nn.Linear(1, 1)
        self.number = nn.Parameter(torch.zeros(()))
        self.calls: list[tuple[str, float, float]] = []

    def player_parameters(self, player: str) -> list[nn.Parameter]:
        return [self.number] if player == "other" else list(self.head.parameters())

    def losses(
        self, encoder: nn.Module, batch: tuple[Tensor, Tensor], player: str = "main", progress: float = 1.0
    ) -> dict[str, Tensor]:
        images, labels = batch
        self.calls.append((player, progress, float(self.head.bias.detach())))
        prediction = self.head(encoder(images).mean(dim=(1, 2, 3))[:, None])[:, 0]
        if player == "main":
            return {"fit": (prediction - labels).square().mean(), "size": 0.1 * self.head.weight.square().sum()}
        return {"follow": (self.number - prediction.detach().mean()).square()}


@pytest.fixture
def learner() -> Learner:
    torch.manual_seed(0)
    return Learner(nn.BatchNorm2d(1), TwoPlayers())


def optimizers_of(learner: Learner, lr: float = 0.1) -> dict[str, torch.optim.Optimizer]:
    weights = list(learner.encoder.parameters())
    return {player: torch.optim.SGD(learner.player_parameters(player, weights), lr=lr) for player in ("main", "other")}


IMAGES = torch.arange(24, dtype=torch.float32).view(6, 1, 2, 2) / 24
LABELS = torch.tensor([0, 1, 0, 1, 1, 0])


def test_players_update_in_order_and_only_their_own(learner: Learner) -> None:
    fabric = make_fabric("cpu", "32-true", 0)
    optimizers = optimizers_of(learner)
    before = {name: value.clone() for name, value in learner.named_parameters()}
    terms = weight_step(fabric, learner, optimizers, IMAGES, LABELS, 0.5, clip=0.0)
    assert set(terms) == {"fit", "size", "gradient_norm/main", "follow", "gradient_norm/other"}
    objective = learner.objective
    assert isinstance(objective, TwoPlayers)
    assert [call[:2] for call in objective.calls] == [("main", 0.5), ("other", 0.5)]
    assert objective.calls[1][2] != objective.calls[0][2]  # the second player sees what the first has done

    # by hand: the gradient of the first player's sum, then of the second's
    reference = Learner(nn.BatchNorm2d(1), TwoPlayers())
    reference.load_state_dict({**learner.state_dict(), **before})
    loss = sum(reference(IMAGES, LABELS, "main").values())
    own = reference.player_parameters("main", list(reference.encoder.parameters()))
    for parameter, gradient in zip(own, torch.autograd.grad(loss, own), strict=True):  # type: ignore[arg-type]
        parameter.data -= 0.1 * gradient
    for name, value in learner.named_parameters():
        if name != "objective.number":
            torch.testing.assert_close(value, dict(reference.named_parameters())[name])
    assert objective.number != 0


def test_clipping_bounds_the_step_and_scale_divides_the_loss(learner: Learner) -> None:
    fabric = make_fabric("cpu", "32-true", 0)
    steps = {}
    for name, (clip, scale) in {"plain": (0.0, 1.0), "clipped": (1e-3, 1.0), "scaled": (0.0, 2.0)}.items():
        torch.manual_seed(0)
        copy = Learner(nn.BatchNorm2d(1), TwoPlayers())
        before = [p.clone() for p in copy.player_parameters("main", list(copy.encoder.parameters()))]
        weight_step(fabric, copy, {"main": optimizers_of(copy)["main"]}, IMAGES, LABELS, 1.0, clip, scale)
        after = copy.player_parameters("main", list(copy.encoder.parameters()))
        steps[name] = torch.cat([(a - b).flatten() for a, b in zip(after, before, strict=True)])
    assert steps["clipped"].norm().item() == pytest.approx(0.1 * 1e-3, rel=1e-3)
    torch.testing.assert_close(steps["scaled"], steps["plain"] / 2)


def test_epoch_follows_its_schedule_and_steps(learner: Learner) -> None:
    fabric = make_fabric("cpu", "32-true", 0)
    optimizers = optimizers_of(learner, lr=1.0)
    rates, order = [], []
    data = LabelledImages((IMAGES * 255).to(torch.uint8).repeat(2, 1, 1, 1), LABELS.repeat(2), LABELS.repeat(2))

    class Watched(Trainer):
        def input(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            order.append("weights")
            rates.append(optimizers["main"].param_groups[0]["lr"])
            images, labels = super().input(images, labels)
            assert 0.0 <= float(images.min()) and float(images.max()) <= 1.0
            return images, labels

        def step(self, batches: Any, progress: float) -> Iterator[dict[str, Tensor]]:
            order.append("before")
            yield {"before/term": torch.tensor(2.0)}
            yield from super().step(batches, progress)
            order.append(f"after {progress}")

    schedule = Schedule(10, 6, lambda position: 0.01 * position, 1.0, 1.0, AugmentationConfig("none"), 0)
    checkpoints = StepCheckpoints(Unkept(ProgressReporter(1)), torch.device("cpu"), dict, None)
    means = train_epoch(Watched(fabric, learner, optimizers, data, schedule), 3, checkpoints)
    assert rates == pytest.approx([0.03, 0.035])
    assert order == ["before", "weights", "after 0.3", "before", "weights", "after 0.35"]
    assert means["before/term"] == 2.0 and {"fit", "size", "follow"} <= set(means)


def test_losses_are_averaged_and_divergence_names_its_term() -> None:
    meter = LossMeter()
    for value in (1.0, 2.0, 6.0):
        meter.add({"ce": torch.tensor(value), "kl": torch.tensor(1.0)})
    assert meter.means() == {"ce": 3.0, "kl": 1.0}
    for bad in (float("nan"), float("inf")):
        meter = LossMeter()
        meter.add({"ce": torch.tensor(1.0), "kl": torch.tensor(bad)})
        with pytest.raises(UserError, match="diverged: loss term 'kl'"):
            meter.means()


def test_frozen_uses_batch_statistics_and_records_none() -> None:
    norm = nn.BatchNorm2d(1).train()
    state = {name: value.clone() for name, value in norm.state_dict().items()}
    with frozen(norm, list(norm.parameters())):
        output = norm(IMAGES)
        assert not output.requires_grad
        assert output.mean().abs() < 1e-6
    assert all(torch.equal(value, norm.state_dict()[name]) for name, value in state.items())
    assert norm.track_running_stats and all(parameter.requires_grad for parameter in norm.parameters())
    norm(IMAGES)
    assert not torch.equal(norm.running_mean, state["running_mean"])


@pytest.mark.parametrize("name", ["tpu", "cuda:99", "meta", ""])
def test_devices_that_are_not_there(name: str) -> None:
    with pytest.raises(UserError, match="device"):
        choose_device(name)
