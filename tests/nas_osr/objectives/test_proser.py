"""Placeholders against NumPy written from the paper, and the score against the authors'."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch import Tensor, nn

from nas_osr.data.protocols import make_protocol
from nas_osr.errors import UserError
from nas_osr.objectives import resolve_objective_config
from nas_osr.objectives.parts.gradmix import random_mates
from nas_osr.objectives.proser import PROSER, PROSERConfig, placeholder_loss, second_place_loss
from nas_osr.outputs import Features, FeatureShapes, Outputs
from nas_osr.scoring import make_rule
from nas_osr.training.learner import Learner

IMAGE = (3, 16, 16)
SHAPES = FeatureShapes({2: (5, 2, 2)}, {})
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 2, 0, 1, 1])
IMAGES = torch.rand(10, *IMAGE, generator=torch.Generator().manual_seed(1))


class Encoder(nn.Module):
    """Three layers with weights, the middle of which is behind the second's activation; BatchNorm in the last."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 4, 4), nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())
        self.last = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 5, 2, 2), nn.BatchNorm2d(5))

    def forward(self, images: Tensor) -> Features:
        return Features({2: self.last(self.second(self.first(images)))}, {})


def make(**settings: Any) -> Learner:
    torch.manual_seed(0)
    encoder = Encoder()
    return Learner(encoder, PROSER(SHAPES, IMAGE, 3, PROSERConfig(**{"placeholders": 2, **settings})))


def columns_of(objective: PROSER, features: np.ndarray) -> np.ndarray:
    """z' = [W f, max_j w_j f] in NumPy."""
    z, dummies = (
        features @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        for layer in (objective.classifier, objective.placeholder)
    )
    return np.concatenate([z, dummies.max(axis=1, keepdims=True)], axis=1)


def features_of(maps: Tensor) -> np.ndarray:
    return maps.detach().mean(dim=(2, 3)).numpy()


def test_losses_equal_their_definitions() -> None:
    learner = make(placeholder_weight=0.5, mixed_weight=0.2, mix_alpha=2.0)
    objective, encoder = learner.objective, learner.encoder
    torch.manual_seed(4)
    terms = learner(IMAGES, LABELS)
    assert terms.keys() == {"ce", "placeholder", "mixed"}
    known = columns_of(objective, features_of(encoder(IMAGES).branches[2]))
    expected = -log_softmax(known, axis=1)[np.arange(10), LABELS].mean()
    assert terms["ce"].item() == pytest.approx(expected, rel=1e-5)
    without = [np.delete(row, label) for row, label in zip(known, LABELS.tolist(), strict=True)]
    expected = -np.mean([log_softmax(row)[-1] for row in without])
    assert terms["placeholder"].item() == pytest.approx(0.5 * expected, rel=1e-5)
    # the same draws: of how much, and of mates; the first half is mixed, behind the second layer
    torch.manual_seed(4)
    share = float(torch.distributions.Beta(2.0, 2.0).sample())
    mates = random_mates(5)
    inner = encoder.second(encoder.first(IMAGES[:5])).detach().numpy()
    mixed = np.stack([share * inner[i] + (1 - share) * inner[j] for i, j in enumerate(mates.tolist())])
    columns = columns_of(objective, features_of(encoder.last(torch.from_numpy(mixed).float())))
    losses = -log_softmax(columns, axis=1)[:, -1]
    apart = [LABELS[i] != LABELS[j] for i, j in enumerate(mates.tolist())]
    assert 0 < sum(apart) < 5
    assert objective.middle == "second"
    assert terms["mixed"].item() == pytest.approx(0.2 * losses[apart].mean(), rel=1e-4)


def test_by_hand() -> None:
    """z' = (0, log 3, log 2): behind its own class 1 the placeholder has 2 of 3; of all it has 2 of 6."""
    columns = torch.tensor([[0.0, 3.0, 2.0]]).clamp_min(1.0).log()
    assert second_place_loss(columns, torch.tensor([1])).item() == pytest.approx(np.log(3 / 2))
    assert placeholder_loss(columns, torch.tensor([True])).item() == pytest.approx(np.log(3))
    free = columns.clone().requires_grad_()
    loss = placeholder_loss(free, torch.tensor([False]))
    assert loss.item() == 0.0 and not torch.autograd.grad(loss, free)[0].any()


def test_gradients_equal_finite_differences() -> None:
    columns = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels, counts = torch.tensor([0, 1, 2, 0]), torch.tensor([True, False, True, True])
    assert torch.autograd.gradcheck(lambda z: second_place_loss(z, labels), columns)
    assert torch.autograd.gradcheck(lambda z: placeholder_loss(z, counts), columns)


def test_the_largest_logit_ranks_images_as_the_authors_score_does() -> None:
    """Which is the placeholder's probability less the largest known one, at a temperature of 1024."""
    learner = make().eval()
    outputs = learner.infer(IMAGES)
    assert outputs.available() == PROSER.provides
    columns = columns_of(learner.objective, outputs.embedding.detach().numpy()).astype(np.float64)
    probabilities = softmax(columns / 1024, axis=1)
    theirs = probabilities[:, :-1].max(axis=1) - probabilities[:, -1]
    rule = make_rule(PROSER.default_rule)
    scores = rule.scores(outputs)
    assert scores.knownness.argsort().tolist() == theirs.argsort().tolist()
    np.testing.assert_allclose(scores.knownness.detach(), columns[:, :-1].max(axis=1) - columns[:, -1], rtol=1e-5)
    np.testing.assert_allclose(
        softmax(outputs.logits.detach(), axis=1), softmax(columns[:, :-1], axis=1), rtol=1e-4, atol=1e-6
    )


def test_the_threshold_is_the_papers_bias() -> None:
    """Added to the placeholder's logit, it lets 95 % of validation images have a known class on top."""
    generator = np.random.default_rng(0)
    columns = generator.normal(size=(400, 4))
    rule = make_rule("mls")
    outputs = Outputs(logits=torch.from_numpy(columns[:, :-1] - columns[:, -1:]))
    rule.set_threshold(outputs, torch.zeros(400, dtype=torch.int64))
    biased = columns + np.array([0.0, 0.0, 0.0, rule.threshold])
    assert (biased.argmax(axis=1) < 3).mean() == pytest.approx(0.95)
    assert (rule.decide(rule.scores(outputs)).numpy() < 3).tolist() == (biased.argmax(axis=1) < 3).tolist()


def test_warm_up_is_plain_cross_entropy() -> None:
    learner = make(warmup=0.5)
    for progress in (0.0, 0.49):
        terms = learner(IMAGES, LABELS, "main", progress)
        z = columns_of(learner.objective, features_of(learner.encoder(IMAGES).branches[2]))[:, :-1]
        assert terms.keys() == {"ce", "placeholder"} and terms["placeholder"].item() == 0.0
        assert terms["ce"].item() == pytest.approx(-log_softmax(z, axis=1)[np.arange(10), LABELS].mean(), rel=1e-5)
        torch.stack(list(terms.values())).sum().backward()
        assert not any(parameter.grad.any() for parameter in learner.objective.placeholder.parameters())
    assert learner(IMAGES, LABELS, "main", 0.5).keys() == {"ce", "placeholder", "mixed"}
    assert [PROSER.follows(PROSERConfig(warmup=share)) for share in (0.0, 0.5)] == [False, True]


def test_mixed_images_are_not_recorded_and_validation_has_none() -> None:
    learner, plain = make(), make(mixed_weight=0.0)
    learner(IMAGES, LABELS)
    plain(IMAGES, LABELS)
    assert all(torch.equal(*pair) for pair in zip(learner.encoder.buffers(), plain.encoder.buffers(), strict=True))
    assert plain.objective.middle is None
    learner.eval()
    with torch.no_grad():
        state = torch.get_rng_state()
        terms = learner.validate(IMAGES, LABELS)
    assert terms.keys() == {"ce", "placeholder"} and torch.equal(torch.get_rng_state(), state)


def test_images_are_mixed_where_a_network_cannot_be_cut() -> None:
    class Opaque(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(5, 3, generator=torch.Generator().manual_seed(0)))
            self.seen: list[Tensor] = []

        def forward(self, images: Tensor) -> Features:
            self.seen.append(images)
            return Features({2: torch.einsum("fc,bchw->bfhw", self.weight, images)}, {})

    encoder = Opaque()
    learner = Learner(encoder, PROSER(SHAPES, IMAGE, 3, PROSERConfig()))
    assert learner.objective.middle == ""
    encoder.seen.clear()
    torch.manual_seed(4)
    learner(IMAGES, LABELS)
    torch.manual_seed(4)
    share, mates = float(torch.distributions.Beta(1.0, 1.0).sample()), random_mates(5)
    torch.testing.assert_close(encoder.seen[1], share * IMAGES[:5] + (1 - share) * IMAGES[:5][mates])


def test_the_first_encoder_is_cut_and_losses_need_one() -> None:
    learner = make()
    learner.objective.attach(nn.Identity())
    assert learner.objective.middle == "second"
    with pytest.raises(RuntimeError, match="attach comes before losses"):
        PROSER(SHAPES, IMAGE, 3, PROSERConfig()).losses(Encoder(), (IMAGES, LABELS))


def test_wrong_settings_are_refused() -> None:
    for settings, message in (
        ({"placeholders": 0}, "placeholders must be greater than 0"),
        ({"warmup": 1.0}, "warmup must lie in"),
        ({"mix_alpha": 0}, "mix_alpha must be greater than 0"),
    ):
        with pytest.raises(UserError, match=message):
            resolve_objective_config("proser", settings, make_protocol("cifar10"), "retrain")
