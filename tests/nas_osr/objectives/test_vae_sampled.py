"""Sampled counterfactuals of the VAE contrastive objective against the sum over all classes."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nas_osr.errors import UserError
from nas_osr.objectives.vae_contrastive import VAEContrastive, VAEContrastiveConfig
from nas_osr.outputs import Features, FeatureShapes

SHAPES = FeatureShapes({2: (16, 1, 1)}, {})
TEMPERATURE = 6.0


class Pooled(nn.Module):
    """The mean colour, sixteen times over."""

    def forward(self, images: Tensor) -> Features:
        return Features({2: images.mean(dim=(1, 2, 3), keepdim=True) * torch.linspace(-2, 2, 16).view(1, 16, 1, 1)}, {})


def make(classes: int, counterfactuals: int, **settings: float) -> VAEContrastive:
    torch.manual_seed(0)
    config = VAEContrastiveConfig(temperature=TEMPERATURE, counterfactuals=counterfactuals, **settings)  # type: ignore[arg-type]
    return VAEContrastive(SHAPES, (3, 16, 16), classes, config).eval()


@settings(max_examples=30)
@given(classes=st.integers(2, 6), sampled=st.integers(1, 5), label=st.integers(0, 5), spread=st.floats(0.0, 0.5))
def test_the_mean_over_all_samples(classes: int, sampled: int, label: int, spread: float) -> None:
    """exp of the estimate is unbiased; the estimate is low by at most half that variance, and exact with all."""
    sampled, label = min(sampled, classes - 1), label % classes
    errors = 1.0 + spread * torch.randn(classes, generator=torch.Generator().manual_seed(3)).double()
    full = F.cross_entropy(-TEMPERATURE * errors[None], torch.tensor([label])).item()
    objective, labels = make(classes, sampled), torch.tensor([label])
    others = [j for j in range(classes) if j != label]
    estimates = [
        objective.contrast(errors[[label, *drawn]][:, None], labels).item() for drawn in combinations(others, sampled)
    ]
    exps = torch.tensor(estimates, dtype=torch.float64).exp()
    assert exps.mean().item() == pytest.approx(math.exp(full), rel=1e-9)
    mean = sum(estimates) / len(estimates)
    assert full - exps.var(correction=0).item() / 2 - 1e-9 <= mean <= full + 1e-9
    if sampled == classes - 1:
        assert estimates == pytest.approx([full], rel=1e-9)


def test_each_image_is_decoded_under_its_own_and_the_drawn_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    objective, encoder = make(4, 2), Pooled()
    images, labels = torch.rand(3, 3, 16, 16), torch.tensor([2, 0, 3])
    classes = torch.tensor([[2, 0, 3], [0, 3, 1], [3, 1, 0]])  # one column an image
    monkeypatch.setattr(objective, "counterfactual_classes", lambda labels: classes)
    decoded = []
    objective.decoder.stages[1].register_forward_hook(lambda module, inputs, output: decoded.append(len(output)))
    torch.manual_seed(7)
    terms = objective.losses(encoder, (images, labels))
    assert decoded == [3 * 4]  # one batch: own reconstruction, own class and two others

    features = encoder(images)
    mean, variance = objective.encode(features)
    torch.manual_seed(7)
    z = (mean + variance.sqrt() * torch.randn_like(mean))[:, 32:]
    every = objective.pixel_error(objective.counterfactuals(z, features), images).T
    expected = 0.0
    for i, label in enumerate(labels.tolist()):
        gains = [math.exp(TEMPERATURE * (every[i, label] - every[i, j]).item()) for j in classes[1:, i].tolist()]
        expected += math.log(1 + 3 / 2 * sum(gains)) / 3
    assert terms["contrastive"].item() == pytest.approx(expected, rel=1e-5)


def test_all_others_are_the_full_loss_and_its_gradient() -> None:
    images, labels = torch.rand(3, 3, 16, 16), torch.tensor([2, 0, 3])
    found = []
    for counterfactuals in (0, 3):
        objective = make(4, counterfactuals)
        torch.manual_seed(7)
        terms = objective.losses(Pooled(), (images, labels))
        terms["contrastive"].backward()
        gradients = {name: value.grad for name, value in objective.named_parameters() if value.grad is not None}
        found.append(({name: value.detach() for name, value in terms.items()}, gradients))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)


def test_samples_are_uniform_and_differ() -> None:
    """Own class first, no class twice, every pair of the others about as often; the generator is torch's own."""
    objective = make(5, 2)
    labels = torch.arange(5).repeat(2000)
    torch.manual_seed(1)
    drawn = objective.counterfactual_classes(labels)
    assert drawn.shape == (3, len(labels)) and torch.equal(drawn[0], labels)
    counts = Counter((first, *sorted(others)) for first, *others in drawn.T.tolist())
    assert all(len(set(key)) == 3 for key in counts) and len(counts) == 5 * 6
    expected = len(labels) / len(counts)
    # chi-square with 25 degrees of freedom: 60 is beyond the .9999 quantile
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 60
    torch.manual_seed(1)
    assert torch.equal(objective.counterfactual_classes(labels), drawn)
    assert not torch.equal(objective.counterfactual_classes(labels), drawn)


def test_nothing_is_drawn_without_need() -> None:
    labels = torch.tensor([1, 0])
    every, none = make(3, 0), make(3, 1, contrastive_weight=0.0)
    before = torch.get_rng_state()
    assert every.counterfactual_classes(labels).tolist() == [[0, 0], [1, 1], [2, 2]]
    assert none.counterfactual_classes(labels).shape == (0, 2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("counterfactuals", "message"), [(-1, "must not be negative"), (3, "must be under .* 3, got 3")]
)
def test_impossible_numbers_are_refused(counterfactuals: int, message: str) -> None:
    with pytest.raises(UserError, match=f"counterfactuals {message}"):
        make(3, counterfactuals)
