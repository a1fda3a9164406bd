"""The soft contrastive loss against loops, what is compared and classified, and what the classifier leaves alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from torch import Tensor, nn

from nas_osr.data.protocols import make_protocol
from nas_osr.errors import UserError
from nas_osr.objectives import resolve_objective_config
from nas_osr.objectives.conosr import ConOSR, ConOSRConfig, smooth_labels
from nas_osr.objectives.parts.classifiers import SpectralLinear
from nas_osr.objectives.parts.contrastive import soft_supcon_loss, supcon_loss, unit_vectors
from nas_osr.objectives.parts.gradmix import random_mates
from nas_osr.outputs import Features, FeatureShapes
from nas_osr.training.learner import Learner

IMAGE = (3, 16, 16)
SHAPES = FeatureShapes({2: (6, 2, 2)}, {})
LABELS = torch.tensor([0, 1, 2, 0, 1])
IMAGES = torch.rand(5, *IMAGE, generator=torch.Generator().manual_seed(1))


class Encoder(nn.Module):
    """One convolution and BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 6, 8, 8), nn.BatchNorm2d(6)
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Features:
        self.seen.append(images)
        return Features({2: torch.relu(self.norm(self.convolution(images)))}, {})


def make(**settings: Any) -> Learner:
    torch.manual_seed(0)
    encoder = Encoder()
    return Learner(encoder, ConOSR(SHAPES, IMAGE, 3, ConOSRConfig(**{"head_width": 4, **settings})))


def random_rows(count: int, seed: int = 0) -> Tensor:
    return unit_vectors(torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))).double()


def loss_by_loops(features: np.ndarray, targets: np.ndarray, temperature: float) -> float:
    """-1 / sum_j a_ij sum_j a_ij log p_ij, row by row, a the cosine of two targets."""
    count, losses = len(features), []
    for i in range(count):
        others = [j for j in range(count) if j != i]
        total = sum(math.exp(features[i] @ features[k] / temperature) for k in others)
        shares = [targets[i] @ targets[j] / np.linalg.norm(targets[i]) / np.linalg.norm(targets[j]) for j in others]
        logs = [features[i] @ features[j] / temperature - math.log(total) for j in others]
        losses.append(-np.dot(shares, logs) / sum(shares))
    return float(np.mean(losses))


def test_hard_labels_make_it_supcon() -> None:
    features, labels = random_rows(7), torch.tensor([0, 1, 2, 0, 1, 0, 3])
    same = (labels[:, None] == labels).float()
    assert torch.equal(soft_supcon_loss(features, same, 0.1), supcon_loss(features, labels, 0.1))


def test_gradients_equal_finite_differences() -> None:
    affinities = torch.rand(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    features = (10 * random_rows(5)).float().requires_grad_()
    (gradient,) = torch.autograd.grad(soft_supcon_loss(features, affinities.float(), 5.0), features)
    for place in ((0, 1), (3, 2)):
        step = torch.zeros(5, 4)
        step[place] = 0.05
        ends = [soft_supcon_loss((features + sign * step).detach(), affinities.float(), 5.0) for sign in (1, -1)]
        assert gradient[place].item() == pytest.approx(float(ends[0] - ends[1]) / 0.1, rel=2e-2, abs=1e-4)


def test_a_row_with_nothing_in_common_is_no_anchor() -> None:
    features, alone = random_rows(3), torch.zeros(3, 3)
    alone[0, 1] = alone[1, 0] = 0.3
    expected = np.mean(
        [-log_softmax(np.delete(f @ features.numpy().T / 0.2, i))[0] for i, f in enumerate(features.numpy()[:2])]
    )
    assert soft_supcon_loss(features, alone, 0.2).item() == pytest.approx(expected, rel=1e-5)
    assert soft_supcon_loss(features, torch.zeros(3, 3), 0.2).item() == 0.0


@settings(max_examples=30, deadline=None)
@given(classes=st.integers(1, 6), share=st.floats(0, 0.99))
def test_smoothed_labels_are_distributions(classes: int, share: float) -> None:
    labels = torch.arange(classes)
    smoothed = smooth_labels(labels, classes, share)
    assert smoothed.diagonal().tolist() == pytest.approx([1 - share] * classes)
    assert classes == 1 or smoothed.sum(dim=1).tolist() == pytest.approx([1.0] * classes)
    if classes > 2:
        assert smoothed[0, 1] == smoothed[0, 2] == pytest.approx(share / (classes - 1))


def test_losses_equal_their_definitions() -> None:
    """Two views of each image and both mixed, with the same draws; the classifier sees the views alone."""
    learner = make(temperature=0.3, mix_alpha=2.0)
    objective, encoder = learner.objective, learner.encoder
    torch.manual_seed(4)
    terms = learner(IMAGES, LABELS)
    views, mixed = encoder.seen
    torch.manual_seed(4)
    assert torch.equal(objective.view(IMAGES.repeat(2, 1, 1, 1)), views)
    share, mates = float(torch.distributions.Beta(2.0, 2.0).sample()), random_mates(5).tolist()
    partners = [*mates, *(5 + mate for mate in mates)]
    torch.testing.assert_close(mixed, share * views + (1 - share) * views[partners])
    features = [encoder(images).branches[2].mean(dim=(2, 3)) for images in (views, mixed)]
    rows = unit_vectors(objective.head(torch.cat(features))).detach().double().numpy()
    targets = np.full((10, 3), 0.1)
    targets[np.arange(10), LABELS.repeat(2)] = 0.8
    both = np.concatenate([targets, share * targets + (1 - share) * targets[partners]])
    assert terms.keys() == {"supcon", "ce"}
    assert terms["supcon"].item() == pytest.approx(loss_by_loops(rows, both, 0.3), rel=1e-4)
    hints = np.full((10, 3), 0.05)
    hints[np.arange(10), LABELS.repeat(2)] = 0.9
    logits = objective.eval().classifier(features[0]).detach().numpy()
    expected = -(hints * log_softmax(logits, axis=1)).sum(axis=1).mean()
    assert terms["ce"].item() == pytest.approx(expected / 0.3, rel=2e-2)  # the layers iterate on in training


def test_the_classifier_only_looks_on() -> None:
    learner = make()
    terms = learner(IMAGES, LABELS)
    terms["ce"].backward(retain_graph=True)
    reached = {name for name, parameter in learner.named_parameters() if parameter.grad is not None}
    assert reached == {f"objective.classifier.{layer}.{name}" for layer in (0, 2) for name in ("weight", "bias")}
    learner.zero_grad()
    terms["supcon"].backward()
    reached = {name for name, parameter in learner.named_parameters() if parameter.grad is not None}
    assert reached == {name for name, _ in learner.named_parameters() if "classifier" not in name}


def test_without_mixing_there_is_one_pass_and_mixed_views_are_not_recorded() -> None:
    plain, mixing = make(mix_alpha=0.0), make()
    for learner, passes in ((plain, 1), (mixing, 2)):
        torch.manual_seed(1)
        learner(IMAGES, LABELS)
        assert len(learner.encoder.seen) == passes
    assert all(torch.equal(*pair) for pair in zip(plain.encoder.buffers(), mixing.encoder.buffers(), strict=True))


@pytest.mark.parametrize("views", ["cropped", "simclr"])
def test_views_differ_and_are_images(views: str) -> None:
    learner = make(views=views)
    learner(IMAGES, LABELS)
    first, second = learner.encoder.seen[0].chunk(2)
    assert not torch.equal(first, second) and 0 <= float(first.min()) and float(first.max()) <= 1


def test_forward_fills_what_it_promises() -> None:
    learner = make().eval()
    outputs = learner.infer(IMAGES)
    assert outputs.available() == ConOSR.provides
    torch.testing.assert_close(outputs.embedding.norm(dim=1), torch.ones(5))
    assert outputs.logits.shape == (5, 3) and outputs.logits.dtype == torch.float32


def test_bf16_autocast_stays_close_and_losses_are_float32() -> None:
    found = []
    for enabled in (False, True):
        learner = make()
        torch.manual_seed(2)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found.append(learner(IMAGES, LABELS))
    for name, value in found[1].items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, found[0][name], rtol=0.03, atol=0.03)


# The classifier's layers ------------------------------------------------------------------------------------------


def test_a_spectral_layer_has_the_matrix_over_its_largest_singular_value() -> None:
    torch.manual_seed(0)
    layer = SpectralLinear(7, 5)
    inputs = torch.randn(3, 7)
    for _ in range(100):
        layer(inputs)
    weight = layer.weight.detach().numpy()
    expected = inputs.numpy() @ (weight / np.linalg.svd(weight, compute_uv=False)[0]).T + layer.bias.detach().numpy()
    np.testing.assert_allclose(layer(inputs).detach(), expected, rtol=1e-4, atol=1e-5)


def test_its_gradient_is_that_of_the_quotient() -> None:
    """By numpy's singular values of moved matrices."""
    torch.manual_seed(0)
    layer, inputs = SpectralLinear(4, 3), torch.randn(2, 4)
    for _ in range(200):
        layer(inputs)
    layer(inputs).sum().backward()

    def value(weight: np.ndarray) -> float:
        return float((inputs.double().numpy() @ (weight / np.linalg.svd(weight, compute_uv=False)[0]).T).sum())

    weight = layer.weight.detach().double().numpy()
    for place in ((0, 0), (2, 3), (1, 2)):
        step = np.zeros_like(weight)
        step[place] = 1e-5
        expected = (value(weight + step) - value(weight - step)) / 2e-5
        assert layer.weight.grad[place].item() == pytest.approx(expected, rel=1e-2, abs=1e-4)


def test_nothing_moves_where_weights_are_frozen_or_used() -> None:
    layer = SpectralLinear(7, 5)
    for change in (lambda: layer.requires_grad_(False), lambda: layer.requires_grad_(True).eval()):
        change()
        before = layer.direction.clone()
        layer(torch.randn(3, 7))
        assert torch.equal(layer.direction, before)
    layer.train()(torch.randn(3, 7))
    assert not torch.equal(layer.direction, before)


def test_zeros_stay_zeros() -> None:
    layer = SpectralLinear(7, 5)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    found = layer(torch.ones(2, 7))
    found.sum().backward()
    assert not found.any() and layer.weight.grad.isfinite().all()


def test_settings() -> None:
    digits, cifar = make_protocol("mnist"), make_protocol("cifar10")
    assert [resolve_objective_config("conosr", {}, each, "retrain").flip for each in (digits, cifar)] == [False, True]
    assert make(temperature=0.25).objective.loss_scale == 4.0
    for setting, message in (
        ({"temperature": 0}, "temperature must be greater than 0"),
        ({"label_smoothing": 1.0}, "label_smoothing must lie in"),
        ({"views": "none"}, "views"),
    ):
        with pytest.raises(UserError, match=message):
            resolve_objective_config("conosr", setting, cifar, "retrain")
