"""Contrastive losses against pytorch-metric-learning, slow loops, hand-worked cases and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nas_osr.objectives.parts.contrastive import (
    info_nce_loss,
    mixed_nt_xent_loss,
    nt_xent_loss,
    supcon_loss,
    unit_vectors,
)

library = pytest.importorskip("pytorch_metric_learning.losses", reason="needs pytorch-metric-learning: the extra test")


def vectors(count: int, width: int = 5, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def supcon_by_loops(features: Tensor, labels: list[int], t: float) -> float:
    rows = features.double().tolist()
    losses = []
    for i, anchor in enumerate(rows):
        weights = {
            k: math.exp(sum(a * b for a, b in zip(anchor, row, strict=True)) / t)
            for k, row in enumerate(rows)
            if k != i
        }
        positives = [k for k in weights if labels[k] == labels[i]]
        if positives:
            total = sum(weights.values())
            losses.append(-sum(math.log(weights[k] / total) for k in positives) / len(positives))
    return sum(losses) / len(losses) if losses else 0.0


CASES = {
    "random": [0, 1, 1, 2, 0, 2, 2, 0],
    "one class": [3] * 8,
    "one image without a mate": [0, 0, 1, 2, 2, 2, 0, 0],
    "all different": list(range(8)),
}


@pytest.mark.parametrize("temperature", [0.05, 0.5])
@pytest.mark.parametrize("case", CASES)
def test_supcon_equals_its_definition_and_a_library(case: str, temperature: float) -> None:
    features, labels = vectors(8), torch.tensor(CASES[case])
    loss = supcon_loss(features, labels, temperature)
    assert loss.item() == pytest.approx(supcon_by_loops(features, labels.tolist(), temperature), rel=1e-5)
    if len(labels.unique()) > 1:  # without a negative, the library's loss is 0
        expected = library.SupConLoss(temperature=temperature)(features, labels)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=9), st.sampled_from([0.05, 0.2, 1.0]), st.integers(0, 99))
def test_supcon_equals_its_definition_for_any_labels(labels: list[int], temperature: float, seed: int) -> None:
    features = vectors(len(labels), seed=seed).requires_grad_()
    loss = supcon_loss(features, torch.tensor(labels), temperature)
    assert loss.item() == pytest.approx(supcon_by_loops(features.detach(), labels, temperature), rel=1e-4, abs=1e-5)
    (gradient,) = torch.autograd.grad(loss, features)
    assert torch.isfinite(gradient).all()
    if len(set(labels)) == len(labels):
        assert loss.item() == 0 and not gradient.any()


@pytest.mark.parametrize("count", [1, 2, 6])
def test_nt_xent_equals_a_library(count: int) -> None:
    first, second = vectors(count, seed=1), vectors(count, seed=2)
    labels = torch.arange(count).repeat(2)
    loss = nt_xent_loss(first, second, 0.1)
    expected = library.NTXentLoss(temperature=0.1)(torch.cat([first, second]), labels)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)


def test_nt_xent_by_hand() -> None:
    """Two images at right angles, both views alike: -log(e^(1/t) / (e^(1/t) + 2))."""
    first = torch.eye(2)
    assert nt_xent_loss(first, first, 0.5).item() == pytest.approx(math.log(1 + 2 * math.exp(-2)))
    assert nt_xent_loss(first[:1], first[:1], 0.5).item() == 0.0


@pytest.mark.parametrize("count", [1, 2, 5])
def test_mixed_loss_equals_its_definition(count: int) -> None:
    clean, mixed = vectors(2 * count, seed=3), vectors(2 * count, seed=4)
    expected = 0.0
    for i in range(2 * count):
        probabilities = torch.softmax(mixed.double() @ clean[i].double() / 0.2, dim=0)
        expected -= sum(math.log(probabilities[p]) for p in (i % count, i % count + count)) / 2 / (2 * count)
    loss = mixed_nt_xent_loss(clean, mixed, 0.2)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert loss.item() >= math.log(2) - 1e-6
    one = mixed_nt_xent_loss(clean, mixed[:count], 0.2)
    every = clean.double() @ mixed[:count].double().T / 0.2
    torch.testing.assert_close(one, F.cross_entropy(every, torch.arange(2 * count) % count).float())
    # for one image with equal mixed views there is nothing to tell apart
    alike = mixed_nt_xent_loss(clean[[0, 0]], mixed[[0, 0]], 0.2)
    assert alike.item() == pytest.approx(math.log(2))


def test_info_nce_equals_cross_entropy() -> None:
    queries, keys, negatives = vectors(4, seed=5), vectors(4, seed=6), vectors(9, seed=7)
    scores = torch.stack(
        [torch.stack([q @ k, *(q @ n for n in negatives)]) for q, k in zip(queries, keys, strict=True)]
    )
    expected = F.cross_entropy(scores / 0.07, torch.zeros(4, dtype=torch.int64))
    torch.testing.assert_close(info_nce_loss(queries, keys, negatives, 0.07), expected)


def test_gradients_equal_finite_differences() -> None:
    first = vectors(4, 3).double().requires_grad_()
    second = vectors(4, 3, seed=1).double().requires_grad_()
    labels = torch.tensor([0, 1, 0, 0])
    # in float32 inside, hence the coarse step
    for loss in (
        lambda a, b: supcon_loss(a, labels, 0.5) + 0 * b.sum(),
        lambda a, b: nt_xent_loss(a, b, 0.5),
        lambda a, b: mixed_nt_xent_loss(a, b, 0.5),
        lambda a, b: info_nce_loss(a, b, b.roll(1, 0), 0.5),
    ):
        assert torch.autograd.gradcheck(loss, (first, second), eps=1e-2, atol=5e-3, rtol=1e-2)


def all_losses(first: Tensor, second: Tensor, temperature: float) -> list[Tensor]:
    labels = torch.arange(len(first)) % 2
    return [
        supcon_loss(first, labels, temperature),
        nt_xent_loss(first, second, temperature),
        mixed_nt_xent_loss(first, second, temperature),
        info_nce_loss(first, second, second.roll(1, 0), temperature),
    ]


def test_float32_under_autocast() -> None:
    first, second = vectors(6), vectors(6, seed=1)
    exact = all_losses(first, second, 0.05)
    with torch.autocast("cpu", torch.bfloat16):
        inside = all_losses(first, second, 0.05)
    assert all(loss.dtype == torch.float32 for loss in inside)
    assert inside == exact


@settings(deadline=None, max_examples=30)
@given(st.sampled_from([0.0, 1e-30, 1e-10, 1.0, 1e10, 1e30]), st.sampled_from([2, 4]), st.sampled_from([0.01, 0.05]))
def test_losses_and_gradients_are_finite_for_any_features(size: float, count: int, temperature: float) -> None:
    raw = [(size * vectors(count, seed=seed)).requires_grad_() for seed in (0, 1)]
    losses = all_losses(unit_vectors(raw[0]), unit_vectors(raw[1]), temperature)
    assert all(torch.isfinite(loss) for loss in losses)
    if size >= 1e-10:
        assert all(torch.isfinite(gradient).all() for gradient in torch.autograd.grad(sum(losses), raw))


def test_unit_vectors_equal_torchs_and_do_not_overflow() -> None:
    features = torch.randn(5, 7, generator=torch.Generator().manual_seed(8), requires_grad=True)
    ours, torchs = unit_vectors(features), F.normalize(features, dim=1)
    torch.testing.assert_close(ours, torchs)
    weights = torch.randn(5, 7, generator=torch.Generator().manual_seed(9))
    gradients = [torch.autograd.grad((result * weights).sum(), features)[0] for result in (ours, torchs)]
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close(unit_vectors(features * 1e30), torchs)
    assert not unit_vectors(torch.zeros(1, 3)).any()
    assert unit_vectors(features.bfloat16()).dtype == torch.float32
