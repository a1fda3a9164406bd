"""Side tasks: what is turned, what they cost, with which objectives they go, and a whole retraining with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nas_osr
from nas_osr.data.protocols import make_protocol
from nas_osr.errors import UserError
from nas_osr.objectives import OBJECTIVES, make_objective, objective_class, resolve_objective_config
from nas_osr.objectives.cross_entropy import CrossEntropy, CrossEntropyConfig
from nas_osr.objectives.parts.pooling import pool
from nas_osr.objectives.parts.side_tasks import turn, turn_quadrants
from nas_osr.outputs import Features
from nas_osr.search_spaces.encoder import feature_shapes
from nas_osr.training.learner import Learner

IMAGE = (1, 32, 32)
OWN_VIEWS = [name for name in OBJECTIVES if objective_class(name).makes_views]


class Pyramid(nn.Module):
    """Maps of every scale; counts the images that it has seen."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [(1, 4, 2), (4, 6, 2), (6, 8, 2), (8, 10, 2)]
        self.steps = nn.ModuleList(nn.Conv2d(first, second, 3, stride, 1) for first, second, stride in sizes)
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Features:
        self.seen.append(images)
        maps = [images]
        for step in self.steps:
            maps.append(torch.relu(step(maps[-1])))
        return Features({2: maps[4]}, {-1: maps[1], 0: maps[2], 1: maps[3], 2: maps[4]})


def images_and_labels(count: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, *IMAGE, generator=generator), torch.arange(count) % 3


def make_learner(name: str, task: str) -> Learner:
    torch.manual_seed(0)
    settings = {"side_task": task, **({"source": "gan"} if name == "confidence" else {})}
    config = resolve_objective_config(name, settings, make_protocol("digits"), "retrain")
    encoder = Pyramid()
    learner = Learner(encoder, make_objective(name, feature_shapes(encoder, IMAGE), IMAGE, 3, config))
    encoder.seen.clear()
    return learner


def test_images_are_turned_as_numpy_turns_them() -> None:
    images = torch.rand(8, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    turns = torch.arange(8) % 4
    expected = np.stack([np.rot90(image, times, (1, 2)) for image, times in zip(images.numpy(), turns, strict=True)])
    np.testing.assert_array_equal(turn(images, turns), expected)


@pytest.mark.parametrize("side", [6, 7])
def test_one_quadrant_is_turned_as_numpy_turns_it(side: int) -> None:
    """Of an odd side the middle row and column belong to no quadrant."""
    images, answers = torch.rand(16, 2, side, side, generator=torch.Generator().manual_seed(1)), torch.arange(16)
    found, before = turn_quadrants(images, answers), images.clone()
    for image, answer in enumerate(answers.tolist()):
        expected, (row, column) = images[image].numpy().copy(), divmod(answer // 4, 2)
        rows, columns = ((slice(0, 3), slice(side - 3, side))[at] for at in (row, column))
        expected[:, rows, columns] = np.rot90(expected[:, rows, columns], answer % 4, (1, 2))
        np.testing.assert_array_equal(found[image], expected)
    assert torch.equal(images, before)
    assert all((found[0] == images[0]).all() == (at % 4 == 0) for at in (0, 4))


def test_lorot_needs_no_further_pass_and_rotpred_one() -> None:
    batch = images_and_labels()
    for task, passes in (("none", 1), ("lorot", 1), ("rotpred", 2)):
        learner = make_learner("cross_entropy", task)
        terms = learner(*batch)
        assert len(learner.encoder.seen) == passes
        assert set(terms) == {"ce", *({task} - {"none"})}
        assert torch.equal(learner.encoder.seen[0], batch[0]) == (task != "lorot")
        learner.eval()
        assert learner.infer(batch[0]).logits.shape == (6, 3) and set(learner.validate(*batch)) == {"ce"}


@pytest.mark.parametrize("task", ["lorot", "rotpred"])
def test_the_term_is_the_cross_entropy_of_how_far_was_turned(task: str) -> None:
    batch, learner = images_and_labels(), make_learner("cross_entropy", task)
    torch.manual_seed(3)
    terms = learner(*batch)
    torch.manual_seed(3)
    answers = torch.randint({"lorot": 16, "rotpred": 4}[task], (6,))
    turned = turn_quadrants(batch[0], answers) if task == "lorot" else turn(batch[0], answers)
    assert torch.equal(learner.encoder.seen[-1], turned)
    log_p = learner.objective.side.head(pool(learner.encoder(turned))).log_softmax(dim=1)
    expected = -0.5 * sum(log_p[image, answer] for image, answer in enumerate(answers.tolist())) / 6
    torch.testing.assert_close(terms[task], expected)


@pytest.mark.parametrize("task", ["lorot", "rotpred"])
@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name not in OWN_VIEWS])
def test_every_objective_learns_it_with_its_own(name: str, task: str) -> None:
    learner = make_learner(name, task)
    player = learner.objective.players[0]
    images, labels = images_and_labels()
    terms = learner(images, labels, "main", 0.5)
    # the head of lorot reads what the network said first, so the given images, turned or not, come before any others
    assert torch.equal(*(shown.flatten(1).sort().values for shown in (images, learner.encoder.seen[0])))
    assert task in terms and len(terms) > 1 and all(value.isfinite() for value in terms.values())
    weights = learner.player_parameters("main", list(learner.encoder.parameters()))
    assert len({id(weight) for weight in weights}) == len(weights)
    head = learner.objective.side.head
    assert {id(head.weight), id(head.bias)} <= {id(weight) for weight in weights} and player
    (gradient,) = torch.autograd.grad(terms[task], head.weight)
    assert gradient.any()


@pytest.mark.parametrize("name", OWN_VIEWS)
def test_views_of_an_objectives_own_go_with_whole_turns_alone(name: str) -> None:
    with pytest.raises(UserError, match=f"side_task lorot: objective {name} makes views of its own: use rotpred"):
        make_learner(name, "lorot")
    learner = make_learner(name, "rotpred")
    assert "rotpred" in learner(*images_and_labels())
    weights = learner.player_parameters("main", [])
    assert any(weight is learner.objective.side.head.weight for weight in weights)


def test_images_that_are_not_square_are_refused() -> None:
    shapes = feature_shapes(Pyramid(), (1, 32, 48))
    with pytest.raises(UserError, match="side_task rotpred: it turns square images, not 32x48"):
        CrossEntropy(shapes, (1, 32, 48), 3, CrossEntropyConfig(side_task="rotpred"))


def test_a_retraining_with_everything_new_is_evaluated_and_opened(tmp_path: Path) -> None:
    """LoRot, another pooling and cosines, by all rules; the model opens without the run, and predicts."""
    common: dict[str, Any] = {"device": "cpu", "threads": 1}
    settings = {"side_task": "lorot", "pooling": "both", "classifier": "cosine"}
    nas_osr.train(
        **common, protocol="digits", preset="tiny", limit_per_class=40, architecture="random:0", epochs=2,
        objective="cross_entropy", objective_config=settings, rule="vim", batch_size=32, quiet=True,
        out=str(tmp_path / "run"),
    )  # fmt: skip
    results = nas_osr.evaluate(run=str(tmp_path / "run"), rule="all", bootstrap=0, **common)
    assert {"relative_mahalanobis", "vim", "odin", "ash"} <= {result["rule"] for result in results}
    assert all(0 <= result["metrics"]["auroc"] <= 1 for result in results)
    (bridged,) = nas_osr.evaluate(run=str(tmp_path / "run"), rule="pytorch_ood.RMD", bootstrap=0, **common)
    assert (tmp_path / "run" / "split-0" / "metrics-pytorch_ood.RMD.json").exists()
    assert 0 <= bridged["metrics"]["auroc"] <= 1
    model = nas_osr.load(tmp_path / "run" / "split-0" / "model", device="cpu")
    assert len(model.predict(np.zeros((3, 32, 32), dtype=np.uint8))) == 3
