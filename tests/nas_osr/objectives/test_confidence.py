"""The confidence loss: each player against a reference written out by hand, and what no player may touch."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from nas_osr.data.dataset import LabelledImages
from nas_osr.data.protocols import make_protocol
from nas_osr.errors import UserError
from nas_osr.objectives import resolve_objective_config
from nas_osr.objectives.confidence import Confidence, ConfidenceConfig, divergence_from_uniform
from nas_osr.objectives.parts.freezing import frozen
from nas_osr.outputs import Features, FeatureShapes
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.retrain.run import run_retrain
from nas_osr.runs.run_folder import RunFolder
from nas_osr.training.fabric import make_fabric
from nas_osr.training.learner import Learner, make_optimizers, weight_step
from nas_osr.training.monitors import split_norms

SHAPE = (1, 32, 32)
SHAPES = FeatureShapes({2: (6, 2, 2)}, {2: (6, 2, 2)})
PLAYERS = ("discriminator", "generator", "main")
TERMS = {
    "discriminator": {"discriminator_real", "discriminator_fake"},
    "generator": {"generator_adversarial", "generator_kl"},
    "main": {"ce", "kl"},
}


class Encoder(nn.Module):
    """Two candidate convolutions mixed by alpha, and BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.candidates = nn.ModuleList(nn.Conv2d(1, 6, 16, stride=16) for _ in range(2))
        self.norm = nn.BatchNorm2d(6)
        self.alpha = nn.Parameter(torch.tensor([0.3, -0.2]))

    def forward(self, images: Tensor) -> Features:
        weights = self.alpha.softmax(0)
        mixed = sum(w * candidate(images) for w, candidate in zip(weights, self.candidates, strict=True))
        return Features({2: torch.relu(self.norm(mixed))}, {})

    def weights(self) -> list[nn.Parameter]:
        return [*self.candidates.parameters(), *self.norm.parameters()]


def make(source: str = "gan", classes: int = 3, **settings: Any) -> Confidence:
    torch.manual_seed(0)
    sizes = {"gan_latent": 5, "gan_width": 4, "beta": 0.7, "gan_epochs": 2, "gan_batch_size": 8}
    objective = Confidence(SHAPES, SHAPE, classes, ConfidenceConfig(source=source, **{**sizes, **settings}))
    if source == "outliers":
        levels = torch.arange(10, 60, 10, dtype=torch.uint8)
        objective.set_outliers(levels.view(5, 1, 1, 1).expand(5, *SHAPE).contiguous())
    return objective


def make_learner(source: str = "gan") -> Learner:
    objective = make(source)
    return Learner(Encoder(), objective)


IMAGES = torch.rand(8, *SHAPE, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 2, 0])


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(module: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def divergence_by_hand(logits: Tensor) -> Tensor:
    """Image by image, class by class, from the softmax itself."""
    values = []
    for row in logits:
        probability = row.exp() / row.exp().sum()
        values.append(sum((1 / len(row)) * (math.log(1 / len(row)) - p.log()) for p in probability))
    return torch.stack(values).mean()  # type: ignore[arg-type]


def test_divergence_equals_torch_and_is_zero_at_uniform() -> None:
    logits = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    uniform = torch.distributions.Categorical(logits=torch.zeros(5, 4, dtype=torch.float64))
    oracle = torch.distributions.kl_divergence(uniform, torch.distributions.Categorical(logits=logits)).mean()
    torch.testing.assert_close(divergence_from_uniform(logits), oracle)
    torch.testing.assert_close(divergence_by_hand(logits), oracle)
    assert abs(divergence_from_uniform(torch.full((2, 6), 3.0)).item()) < 1e-6
    assert torch.autograd.gradcheck(divergence_from_uniform, (logits,))


@given(scale=st.floats(0, 1e30), count=st.integers(1, 3), classes=st.integers(1, 5))
def test_divergence_is_finite_and_not_negative(scale: float, count: int, classes: int) -> None:
    logits = scale * torch.randn(count, classes, generator=torch.Generator().manual_seed(count))
    logits.requires_grad_()
    value = divergence_from_uniform(logits)
    (gradient,) = torch.autograd.grad(value, logits)
    assert torch.isfinite(value) and value > -1e-5 and torch.isfinite(gradient).all()


def reference(learner: Learner, player: str, noise_seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Terms and gradients of one player by plain torch on a copy; gradients by parameter name, of all that it owns."""
    copied = copy.deepcopy(learner)
    objective, encoder = copied.objective, copied.encoder
    assert isinstance(objective, Confidence)
    generator, discriminator = objective.generator, objective.discriminator
    assert generator is not None and discriminator is not None
    torch.manual_seed(noise_seed)
    fakes = torch.sigmoid(generator.layers(torch.randn(len(IMAGES), 5).view(-1, 5, 1, 1)))

    def logits(images: Tensor) -> Tensor:
        return encoder(images).branches[2].mean(dim=(2, 3)) @ objective.classifier.weight.T + objective.classifier.bias

    ones, zeros = torch.ones(len(IMAGES)), torch.zeros(len(IMAGES))
    bce = F.binary_cross_entropy_with_logits
    if player == "discriminator":
        terms = {
            "discriminator_real": bce(discriminator(IMAGES), ones),
            "discriminator_fake": bce(discriminator(fakes.detach()), zeros),
        }
    elif player == "generator":
        terms = {
            "generator_adversarial": bce(discriminator(fakes), ones),
            "generator_kl": 0.7 * divergence_by_hand(logits(fakes)),
        }
    else:
        log_p = logits(IMAGES).log_softmax(1)
        terms = {
            "ce": -sum(row[label] for row, label in zip(log_p, LABELS, strict=True)) / len(IMAGES),
            "kl": 0.7 * divergence_by_hand(logits(fakes.detach())),
        }
    owned = copied.player_parameters(player, list(encoder.parameters()))
    names = [name for name, p in copied.named_parameters() if any(p is other for other in owned)]
    gradients = torch.autograd.grad(total(terms), [dict(copied.named_parameters())[name] for name in names])
    return terms, dict(zip(names, gradients, strict=True))


@pytest.mark.parametrize("player", PLAYERS)
def test_terms_and_gradients_equal_the_reference(player: str) -> None:
    learner = make_learner()
    terms, gradients = reference(learner, player, 5)
    torch.manual_seed(5)
    own = learner(IMAGES, LABELS, player)
    assert own.keys() == terms.keys() == TERMS[player]
    for name, value in own.items():
        torch.testing.assert_close(value, terms[name], msg=name)
    total(own).backward()
    for name, parameter in learner.named_parameters():
        if name in gradients:
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-6, msg=name)
        else:
            assert parameter.grad is None, name
        assert parameter.requires_grad
    # the fakes get a gradient from the classifier too, not from the discriminator alone
    if player == "generator":
        learner.zero_grad()
        torch.manual_seed(5)
        learner(IMAGES, LABELS, player)["generator_kl"].backward()
        assert all(p.grad is not None for name, p in learner.named_parameters() if "generator" in name)


OWNED: dict[str, tuple[str, ...]] = {
    "discriminator": ("objective.discriminator.",),
    "generator": ("objective.generator.",),
    "main": ("encoder.", "objective.classifier."),
}


@pytest.mark.parametrize("player", PLAYERS)
def test_each_player_changes_only_its_own(player: str) -> None:
    """Parameters and running statistics alike."""
    learner = make_learner()
    optimizers = make_optimizers(learner, list(learner.encoder.parameters()), lambda p: torch.optim.SGD(p, lr=0.1))
    assert tuple(optimizers) == PLAYERS
    before = snapshot(learner)
    weight_step(make_fabric("cpu", "32-true", 0), learner, {player: optimizers[player]}, IMAGES, LABELS, 0.0, 5.0)
    moved = changed(learner, before)
    assert moved and all(name.startswith(OWNED[player]) for name in moved), moved
    assert {name for name, _ in learner.named_parameters() if name.startswith(OWNED[player])} <= moved
    assert any(name.endswith("running_mean") for name in moved)


def test_all_players_in_one_step() -> None:
    learner = make_learner()
    optimizers = make_optimizers(learner, list(learner.encoder.parameters()), lambda p: torch.optim.SGD(p, lr=0.1))
    terms = weight_step(make_fabric("cpu", "32-true", 0), learner, optimizers, IMAGES, LABELS, 0.0, 0.0)
    assert split_norms(terms)[0].keys() == set().union(*TERMS.values())
    for player in ("discriminator", "generator"):
        assert isinstance(optimizers[player], torch.optim.Adam)
        assert optimizers[player].defaults["lr"] == 2e-4 and optimizers[player].defaults["betas"] == (0.5, 0.999)
    assert isinstance(optimizers["main"], torch.optim.SGD)


@pytest.mark.parametrize("source", ["gan", "pretrained_gan", "outliers"])
def test_running_statistics_see_known_images_only(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the other images are, and equal to those of the known images passing alone."""
    statistics = []
    for level in (None, 0.0, 1.0):
        learner = make_learner(source)
        objective = learner.objective
        assert isinstance(objective, Confidence)
        if level is not None:
            fakes = torch.full((len(IMAGES), *SHAPE), level)
            monkeypatch.setattr(objective, "other_images", lambda count, fakes=fakes: fakes)
            if objective.generator is not None:
                monkeypatch.setattr(objective.generator, "forward", lambda noise, fakes=fakes: fakes)
        for player in objective.players:
            learner(IMAGES, LABELS, player)
        assert isinstance(learner.encoder, Encoder)
        statistics.append(snapshot(learner.encoder.norm))
    alone = copy.deepcopy(learner.encoder)
    assert isinstance(alone, Encoder)
    alone.norm.reset_running_stats()
    alone(IMAGES)
    for name, value in alone.norm.state_dict().items():
        for found in statistics[1:]:
            assert torch.equal(found[name], value), name
        assert torch.equal(statistics[0][name], statistics[1][name]), name


@pytest.mark.parametrize("source", ["gan", "pretrained_gan", "outliers"])
def test_architecture_step_reaches_alpha_only(source: str) -> None:
    learner = make_learner(source)
    assert isinstance(learner.encoder, Encoder)
    before = snapshot(learner)
    gradients = reference(learner, "main", 4)[1] if source == "gan" else {}
    torch.manual_seed(4)
    with frozen(learner, [*learner.encoder.weights(), *learner.objective.parameters()]):
        losses = learner(IMAGES, LABELS, "main", 0.5)
        total(losses).backward()
    assert [name for name, p in learner.named_parameters() if p.grad is not None] == ["encoder.alpha"]
    assert learner.encoder.alpha.grad is not None and learner.encoder.alpha.grad.any()
    if source == "gan":
        torch.testing.assert_close(learner.encoder.alpha.grad, gradients["encoder.alpha"], rtol=1e-4, atol=1e-6)
    assert not changed(learner, before)
    assert all(p.requires_grad for p in learner.parameters())


def test_players_and_parts_of_each_source() -> None:
    joint, fixed, given_images = make("gan"), make("pretrained_gan"), make("outliers")
    assert joint.players == PLAYERS and fixed.players == given_images.players == ("main",)
    assert joint.discriminator is not None and fixed.discriminator is None and given_images.discriminator is None
    assert joint.generator is not None and fixed.generator is not None and given_images.generator is None
    for objective in (joint, fixed, given_images):
        assert [p.shape for p in objective.player_parameters("main")] == [(3, 6), (3,)]
    assert [Confidence.needs_outliers(o.config) for o in (joint, fixed, given_images)] == [False, False, True]
    owned = [p for player in PLAYERS for p in joint.player_parameters(player)]
    assert {id(p) for p in owned} == {id(p) for p in joint.parameters()} and len(owned) == len(list(joint.parameters()))


def test_outliers_are_drawn_from_what_was_given() -> None:
    objective = make("outliers")
    torch.manual_seed(2)
    drawn = objective.other_images(200)
    assert drawn.shape == (200, *SHAPE) and drawn.dtype == torch.float32
    levels = (drawn[:, 0, 0, 0] * 255).round()
    assert {*levels.tolist()} == {10.0, 20.0, 30.0, 40.0, 50.0}
    torch.manual_seed(2)
    assert torch.equal(drawn, objective.other_images(200))
    assert not any("outliers" in name for name in objective.state_dict())
    assert "outliers" in dict(objective.named_buffers())  # so that they follow the objective to its device


def test_wrong_outliers_are_refused() -> None:
    objective = Confidence(SHAPES, SHAPE, 3, ConfidenceConfig(source="outliers"))
    with pytest.raises(RuntimeError, match="set_outliers comes before losses"):
        objective.losses(Encoder(), (IMAGES, LABELS))
    for images in (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.zeros(2, *SHAPE), torch.zeros(0, *SHAPE)):
        with pytest.raises(ValueError, match="outliers must be uint8"):
            objective.set_outliers(images)
    for source in ("gan", "pretrained_gan"):
        with pytest.raises(UserError, match="confidence takes no outlier images as it is set: leave --outliers out"):
            make(source).set_outliers(torch.zeros(2, *SHAPE, dtype=torch.uint8))


def known_images(count: int = 30) -> LabelledImages:
    images = torch.randint(0, 256, (count, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return LabelledImages(images, torch.zeros(count, dtype=torch.long), torch.zeros(count, dtype=torch.long))


def test_a_pretrained_generator_is_trained_beforehand_and_then_fixed() -> None:
    learner = make_learner("pretrained_gan")
    objective = learner.objective
    assert isinstance(objective, Confidence) and objective.generator is not None
    before = snapshot(learner)
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    figures = objective.prepare(known_images(), 7)
    assert torch.equal(torch.rand(3), expected)  # the global random state is as it was
    assert {*figures} == {"discriminator_real", "discriminator_fake", "generator_adversarial"}
    assert all(math.isfinite(value) for value in figures.values())
    moved = changed(learner, before)
    assert all(name.startswith("objective.generator.") for name in moved)
    assert {name for name, _ in learner.named_parameters() if "generator" in name} <= moved

    again = make("pretrained_gan")
    torch.manual_seed(1234)
    assert again.prepare(known_images(), 7) == figures
    assert not changed(again, snapshot(objective))
    assert make("pretrained_gan").prepare(known_images(), 8) != figures

    before = snapshot(objective.generator)
    optimizers = make_optimizers(learner, list(learner.encoder.parameters()), lambda p: torch.optim.SGD(p, lr=0.1))
    learner.train()
    for _ in range(2):
        terms = weight_step(make_fabric("cpu", "32-true", 0), learner, optimizers, IMAGES, LABELS, 0.0, 0.0)
    assert split_norms(terms)[0].keys() == TERMS["main"] and not changed(objective.generator, before)


@pytest.mark.parametrize("source", ["gan", "outliers"])
def test_other_sources_prepare_nothing(source: str) -> None:
    objective = make(source)
    before = snapshot(objective)
    assert objective.prepare(known_images(), 0) == {} and not changed(objective, before)


def test_training_leaves_the_classifier_undecided_about_outliers() -> None:
    """Two classes by level and outliers of a third level: confident about the former, near log 2 about the latter."""
    objective = make("outliers", classes=2, beta=1.0)
    objective.set_outliers(torch.full((4, *SHAPE), 255, dtype=torch.uint8))
    learner = Learner(Encoder(), objective)
    images = IMAGES * 0.1 + torch.where(LABELS == 0, 0.1, 0.5).view(-1, 1, 1, 1)
    labels = (LABELS != 0).long()
    optimizers = make_optimizers(learner, list(learner.encoder.parameters()), lambda p: torch.optim.Adam(p, lr=0.02))
    fabric = make_fabric("cpu", "32-true", 0)
    for _ in range(60):
        terms = weight_step(fabric, learner, optimizers, images, labels, 0.0, 0.0)
    assert terms["ce"] < 0.1 and terms["kl"] < 0.1, terms


def test_forward_fills_what_it_promises() -> None:
    learner = make_learner().eval()
    outputs = learner.infer(IMAGES)
    assert outputs.available() == Confidence.provides
    assert outputs.logits is not None and outputs.logits.shape == (8, 3)
    assert outputs.embedding is not None and outputs.embedding.shape == (8, 6)
    assert Confidence.default_rule == "msp"


@pytest.mark.parametrize("player", PLAYERS)
def test_bf16_autocast_stays_close_and_losses_are_float32(player: str) -> None:
    learner = make_learner()
    torch.manual_seed(3)
    exact = learner(IMAGES, LABELS, player)
    torch.manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16):
        terms = learner(IMAGES, LABELS, player)
    total(terms).backward()
    for name, value in terms.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact[name], rtol=0.05, atol=0.05)


def test_beta_is_the_papers() -> None:
    for phase in ("search", "retrain"):
        assert resolve_objective_config("confidence", {}, make_protocol("svhn"), phase).beta == 1.0
        assert resolve_objective_config("confidence", {}, make_protocol("cifar10"), phase).beta == 0.1
        assert resolve_objective_config("confidence", {"beta": 0.3}, make_protocol("svhn"), phase).beta == 0.3
    config = ConfidenceConfig()
    assert (config.gan_latent, config.gan_width, config.gan_learning_rate) == (100, 64, 2e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "vae"}, "source must be one of gan, pretrained_gan, outliers, got 'vae'"),
        ({"beta": 0}, "beta must be greater than 0, got 0"),
        ({"gan_learning_rate": -1.0}, "gan_learning_rate must be greater than 0"),
        ({"gan_width": 0}, "gan_width must be greater than 0"),
        ({"gan_epochs": 0}, "gan_epochs must be greater than 0"),
        ({"gan_latent": 1.5}, "gan_latent must be a whole number"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_objective_config("confidence", settings, make_protocol("cifar10"), "retrain")


@pytest.mark.parametrize("source", ["gan", "pretrained_gan"])
def test_a_killed_run_resumes_with_the_same_bits(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config: dict[str, Any] = {
        "protocol": "digits", "preset": "tiny", "architecture": "random:0", "limit_per_class": 10, "epochs": 2,
        "batch_size": 16, "device": "cpu", "threads": 1, "bootstrap": 0, "quiet": True, "objective": "confidence",
        "objective_config": {"source": source, "gan_width": 4, **({} if source == "gan" else {"gan_epochs": 1})},
    }  # fmt: skip
    run_retrain(RetrainRequest(**config, out=str(tmp_path / "whole")), ["nas-osr"])
    original = RunFolder.save_checkpoint

    class Killed(BaseException):
        pass

    def kill(self: RunFolder, state: dict[str, Any]) -> None:
        original(self, state)
        if state["epoch"] == 0:
            raise Killed

    monkeypatch.setattr(RunFolder, "save_checkpoint", kill)
    with pytest.raises(Killed):
        run_retrain(RetrainRequest(**config, out=str(tmp_path / "run")), ["nas-osr"])
    monkeypatch.setattr(RunFolder, "save_checkpoint", original)
    run_retrain(RetrainRequest(**config, out=str(tmp_path / "run"), resume="auto"), ["nas-osr"])
    whole, resumed = (RunFolder.open(tmp_path / name / "split-0") for name in ("whole", "run"))
    assert whole.read_history() == resumed.read_history()
    assert ("prepared" in whole.read_history()[0]) == (source == "pretrained_gan")
    states = [run.load_checkpoint() for run in (whole, resumed)]
    assert states[0] is not None and states[1] is not None
    assert states[0]["learner"].keys() == states[1]["learner"].keys()
    for name, value in states[0]["learner"].items():
        assert torch.equal(value, states[1]["learner"][name]), name
