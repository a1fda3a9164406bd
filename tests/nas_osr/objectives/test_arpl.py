"""Reciprocal points against NumPy written from the paper, and the players of the confusing samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from scipy.stats import entropy
from torch import Tensor, nn

from nas_osr.data.protocols import make_protocol
from nas_osr.errors import UserError
from nas_osr.objectives import resolve_objective_config
from nas_osr.objectives.arpl import ARPL, ARPLConfig, compare_points, divergence_to_uniform
from nas_osr.objectives.parts.freezing import frozen
from nas_osr.outputs import Features, FeatureShapes
from nas_osr.scoring import make_rule
from nas_osr.training.fabric import make_fabric
from nas_osr.training.learner import Learner, make_optimizers, weight_step
from nas_osr.training.monitors import split_norms

SHAPE = (1, 32, 32)
SHAPES = FeatureShapes({2: (6, 2, 2)}, {2: (6, 2, 2)})
PLAYERS = ("discriminator", "generator", "main")
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 2, 0])
IMAGES = torch.rand(8, *SHAPE, generator=torch.Generator().manual_seed(1))


class Rows(nn.Module):
    """Maps whose pooled features are the given rows."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, images: Tensor) -> Features:
        return Features({2: self.rows[:, :, None, None].expand(-1, -1, 2, 2)}, {})


class Encoder(nn.Module):
    """Two candidate convolutions mixed by alpha, and BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.candidates = nn.ModuleList(nn.Conv2d(1, 6, 16, stride=16) for _ in range(2))
        self.norm = nn.BatchNorm2d(6)
        self.alpha = nn.Parameter(torch.tensor([0.3, -0.2]))

    def forward(self, images: Tensor) -> Features:
        mixed = sum(w * each(images) for w, each in zip(self.alpha.softmax(0), self.candidates, strict=True))
        return Features({2: torch.relu(self.norm(mixed))}, {})


def make(classes: int = 3, **settings: Any) -> ARPL:
    torch.manual_seed(0)
    objective = ARPL(SHAPES, SHAPE, classes, ARPLConfig(**{"gan_latent": 5, "gan_width": 4, **settings}))
    with torch.no_grad():
        objective.radius.fill_(0.4)
    return objective


def confusing() -> Learner:
    objective = make(confusing_samples=True, beta=0.7)
    return Learner(Encoder(), objective)


def by_numpy(features: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """d_e and d of every image to every point, one number at a time."""
    euclidean = np.array([[sum((f - p) ** 2) / len(f) for p in points] for f in features])
    return euclidean, euclidean - np.array([[np.dot(f, p) for p in points] for f in features])


@pytest.mark.parametrize("margin", [0.0, 1.0])
def test_losses_equal_their_definitions(margin: float) -> None:
    objective = make(margin_weight=0.3, temperature=2.0, margin=margin)
    rows = 2 * torch.randn(8, 6, generator=torch.Generator().manual_seed(2))
    terms = objective.losses(Rows(rows), (IMAGES, LABELS))
    euclidean, d = by_numpy(rows.double().numpy(), objective.points.detach().double().numpy())
    y = LABELS.numpy()
    assert terms.keys() == {"ce", "margin"}
    expected = -log_softmax(d / 2.0, axis=1)[np.arange(8), y].mean()
    assert terms["ce"].item() == pytest.approx(expected, rel=1e-5)
    beyond = np.maximum(0.0, euclidean[np.arange(8), y] - 0.4 + margin)
    assert terms["margin"].item() == pytest.approx(0.3 * beyond.mean(), rel=1e-5)


def test_the_margin_of_the_authors_code_is_another_start_of_the_radius() -> None:
    rows = torch.randn(8, 6, generator=torch.Generator().manual_seed(2))
    one, other = make(margin=1.0), make()
    with torch.no_grad():
        other.radius.sub_(1.0)
    for name, value in one.losses(Rows(rows), (IMAGES, LABELS)).items():
        torch.testing.assert_close(other.losses(Rows(rows), (IMAGES, LABELS))[name], value)


def test_knownness_is_the_distance_to_the_farthest_point() -> None:
    objective, rows = make(), torch.randn(8, 6, generator=torch.Generator().manual_seed(3))
    outputs = objective(Rows(rows), IMAGES)
    assert outputs.available() == ARPL.provides
    _, d = by_numpy(rows.double().numpy(), objective.points.detach().double().numpy())
    scores = make_rule(ARPL.default_rule).scores(outputs)
    np.testing.assert_allclose(scores.knownness.detach(), d.max(axis=1), rtol=1e-5, atol=1e-6)
    assert scores.labels.tolist() == d.argmax(axis=1).tolist()


def test_points_and_radius_learn() -> None:
    """Features are moved, too: known ones end nearer to their own point than the radius, and are classified."""
    objective = make(margin_weight=1.0)
    encoder = Rows(nn.Parameter(torch.randn(8, 6, generator=torch.Generator().manual_seed(2))))
    optimizer = torch.optim.SGD([*objective.parameters(), *encoder.parameters()], lr=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        torch.stack(list(objective.losses(encoder, (IMAGES, LABELS)).values())).sum().backward()
        optimizer.step()
    distances, _ = compare_points(encoder.rows, objective.points)
    assert (distances.gather(1, LABELS[:, None]) < objective.radius + 0.05).all()
    assert objective(encoder, IMAGES).logits.argmax(1).equal(LABELS)


def test_without_weight_there_is_no_radius_term() -> None:
    assert make(margin_weight=0.0).losses(Rows(torch.randn(8, 6)), (IMAGES, LABELS)).keys() == {"ce"}


def test_bf16_autocast_stays_close_and_losses_are_float32() -> None:
    objective, encoder = make(), Rows(torch.randn(8, 6, generator=torch.Generator().manual_seed(5)))
    exact = objective.losses(encoder, (IMAGES, LABELS))
    with torch.autocast("cpu", torch.bfloat16):
        terms = objective.losses(encoder, (IMAGES, LABELS))
    for name, value in terms.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact[name])


# Confusing samples ------------------------------------------------------------------------------------------------


def test_confusion_is_scipys_divergence() -> None:
    logits = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    probabilities = softmax(logits.detach().numpy(), axis=1)
    assert divergence_to_uniform(logits).item() == pytest.approx(
        entropy(probabilities, np.full((5, 4), 0.25), axis=1).mean()
    )
    assert abs(divergence_to_uniform(torch.full((2, 6), 3.0)).item()) < 1e-6
    assert torch.autograd.gradcheck(divergence_to_uniform, (logits,))


def test_near_uniform_the_authors_code_has_the_same_gradient() -> None:
    """exp(-H) against KL / N."""
    logits = (
        1e-4 * torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ).requires_grad_()
    log_p = logits.log_softmax(dim=1)
    theirs = (log_p.exp() * log_p).sum(dim=1).mean().exp()
    ours = divergence_to_uniform(logits) / 4
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (theirs, ours)), rtol=1e-3, atol=0.0)


def test_the_network_is_asked_to_be_undecided_about_fakes() -> None:
    learner = confusing()
    objective, encoder = learner.objective, learner.encoder
    torch.manual_seed(5)
    terms = learner(IMAGES, LABELS)
    torch.manual_seed(5)
    fakes = objective.generator(objective.generator.noise(8))
    encoder.norm.train()
    features = encoder(fakes).branches[2].mean(dim=(2, 3)).detach().double().numpy()
    euclidean, _ = by_numpy(features, objective.points.detach().double().numpy())
    expected = 0.7 / 3 * (np.log(3) - entropy(softmax(euclidean, axis=1), axis=1).mean())
    assert terms.keys() == {"ce", "margin", "confusion"}
    assert terms["confusion"].item() == pytest.approx(expected, rel=1e-4)
    assert learner(IMAGES, LABELS, "generator").keys() == {"generator_adversarial", "generator_confusion"}


@pytest.mark.parametrize("player", PLAYERS)
def test_each_player_changes_only_its_own(player: str) -> None:
    """Parameters and running statistics alike."""
    owned = {"main": ("encoder.", "objective.points", "objective.radius")}.get(player, (f"objective.{player}.",))
    learner = confusing()
    optimizers = make_optimizers(learner, list(learner.encoder.parameters()), lambda p: torch.optim.SGD(p, lr=0.1))
    assert tuple(optimizers) == PLAYERS
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    terms = weight_step(
        make_fabric("cpu", "32-true", 0), learner, {player: optimizers[player]}, IMAGES, LABELS, 0.0, 5.0
    )
    assert all(value.isfinite() for value in split_norms(terms)[0].values())
    moved = {name for name, value in learner.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith(owned) for name in moved), moved
    assert {name for name, _ in learner.named_parameters() if name.startswith(owned)} <= moved


def test_running_statistics_see_known_images_only() -> None:
    learner, alone = confusing(), Learner(Encoder(), make())
    alone.encoder.load_state_dict(learner.encoder.state_dict())
    alone(IMAGES, LABELS)
    for player in PLAYERS:
        learner(IMAGES, LABELS, player)
    for name, value in alone.encoder.norm.state_dict().items():
        assert torch.equal(learner.encoder.norm.state_dict()[name], value), name


def test_architecture_step_reaches_alpha_only() -> None:
    learner = confusing()
    weights = [*learner.encoder.candidates.parameters(), *learner.encoder.norm.parameters()]
    with frozen(learner, [*weights, *learner.objective.parameters()]):
        torch.stack(list(learner(IMAGES, LABELS).values())).sum().backward()
    assert [name for name, p in learner.named_parameters() if p.grad is not None] == ["encoder.alpha"]


def test_paper_coefficients_are_the_defaults_and_wrong_ones_are_refused() -> None:
    protocol = make_protocol("cifar10")
    config = resolve_objective_config("arpl", {}, protocol, "retrain")
    assert (config.margin_weight, config.margin, config.temperature, config.beta) == (0.1, 0.0, 1.0, 0.1)
    assert not config.confusing_samples and make().players == ("main",) and make().generator is None
    for name in ("temperature", "beta", "gan_width"):
        with pytest.raises(UserError, match=f"{name} must be greater than 0"):
            resolve_objective_config("arpl", {name: 0}, protocol, "retrain")
    with pytest.raises(UserError, match="GAN makes images of 32x32 or 64x64"):
        ARPL(SHAPES, (1, 48, 48), 3, ARPLConfig(confusing_samples=True))
