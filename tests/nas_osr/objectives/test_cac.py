"""The CAC loss against explicit loops, a hand-worked case and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nas_osr.data.protocols import make_protocol
from nas_osr.errors import UserError
from nas_osr.objectives import make_objective, resolve_objective_config
from nas_osr.objectives.cac import CAC, CACConfig, anchor_distances, anchor_loss, tuplet_loss
from nas_osr.objectives.parts.pooling import pool
from nas_osr.outputs import Features, FeatureShapes

SHAPES = FeatureShapes({2: (6, 2, 2)}, {2: (6, 2, 2)})


class Rows(nn.Module):
    """Maps whose pooled features are the given rows."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, images: Tensor) -> Features:
        return Features({2: self.rows[:, :, None, None].expand(-1, -1, 2, 2)}, {})


def make(classes: int = 3, **settings: float) -> CAC:
    torch.manual_seed(0)
    return CAC(SHAPES, (3, 32, 32), classes, CACConfig(**settings))


def passing(classes: int = 3, **settings: float) -> CAC:
    """An objective whose logits are the first features."""
    objective = make(classes, **settings)
    with torch.no_grad():
        objective.to_logits.weight.copy_(torch.eye(classes, 6))
        objective.to_logits.bias.zero_()
    return objective


def rows(*logits: list[float]) -> Rows:
    return Rows(F.pad(torch.tensor(logits), (0, 6 - len(logits[0]))))


def images(count: int) -> Tensor:
    return torch.zeros(count, 3, 32, 32)


def loss_by_loops(logits: Tensor, labels: list[int], alpha: float) -> tuple[float, float]:
    """Mean tuplet and anchor losses, one number at a time."""
    tuplet = anchor = 0.0
    for z, y in zip(logits.tolist(), labels, strict=True):
        d = [math.dist(z, [alpha if k == j else 0.0 for k in range(len(z))]) for j in range(len(z))]
        tuplet += math.log1p(sum(math.exp(d[y] - d[j]) for j in range(len(z)) if j != y)) / len(labels)
        anchor += d[y] / len(labels)
    return tuplet, anchor


def test_losses_equal_their_definitions() -> None:
    objective = make(anchor_weight=0.3, tuplet_weight=2.0, alpha=4.0)
    features = torch.randn(5, 6, generator=torch.Generator().manual_seed(1)) * 5
    labels = torch.tensor([0, 2, 1, 1, 0])
    terms = objective.losses(Rows(features), (images(5), labels))
    logits = features.double() @ objective.to_logits.weight.double().T + objective.to_logits.bias.double()
    tuplet, anchor = loss_by_loops(logits, labels.tolist(), 4.0)
    assert terms.keys() == {"tuplet", "anchor"}
    assert terms["tuplet"].item() == pytest.approx(2.0 * tuplet, rel=1e-5)
    assert terms["anchor"].item() == pytest.approx(0.3 * anchor, rel=1e-5)


def test_by_hand() -> None:
    """alpha 10, z = (3, 4): d = (sqrt(49 + 16), sqrt(9 + 36)). At the anchor of the class, d_y = 0 exactly."""
    objective = passing(2)
    encoder = rows([3.0, 4.0], [10.0, 0.0])
    outputs = objective(encoder, images(2))
    expected = torch.tensor([[65**0.5, 45**0.5], [0.0, 200**0.5]])
    torch.testing.assert_close(outputs.distances, expected)
    terms = objective.losses(encoder, (images(2), torch.tensor([0, 0])))
    assert terms["tuplet"].item() == pytest.approx(
        (math.log(1 + math.exp(65**0.5 - 45**0.5)) + math.log(1 + math.exp(-(200**0.5)))) / 2, rel=1e-5
    )
    assert terms["anchor"].item() == pytest.approx(0.1 * 65**0.5 / 2)


def test_validation_is_the_anchor_loss_without_weight() -> None:
    """By which the authors keep an epoch: also where the tuplet term alone is trained."""
    logits, labels = [[4.0, 1.0, 0.0], [0.0, 9.0, 2.0]], torch.tensor([0, 1])
    expected = loss_by_loops(torch.tensor(logits), labels.tolist(), 10.0)[1]
    for values in ({}, {"anchor_weight": 0.0}):
        terms = passing(**values).validation_terms(rows(*logits), (images(2), labels))
        assert {name: float(value) for name, value in terms.items()} == {"anchor": pytest.approx(expected)}


def test_the_linear_layer_starts_as_the_authors_have_it() -> None:
    torch.manual_seed(0)
    layer = CAC(FeatureShapes({2: (4000, 1, 1)}, {}), (3, 32, 32), 10, CACConfig()).to_logits
    assert float(layer.weight.detach().std()) == pytest.approx(0.01, rel=0.05) and not layer.bias.any()


@pytest.mark.parametrize("classes", [1, 2, 4])
def test_gradients_equal_finite_differences(classes: int) -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(3, classes, generator=generator, dtype=torch.float64) * 4
    anchors = 10 * torch.eye(classes, dtype=torch.float64)
    labels = torch.arange(3) % classes
    for loss in (tuplet_loss, anchor_loss):
        assert torch.autograd.gradcheck(
            lambda z, loss=loss: loss(anchor_distances(z, anchors), labels), logits.requires_grad_()
        )


def test_distances_beyond_the_root_of_float32_are_finite() -> None:
    logits = torch.tensor([[3e20, -4e20, 0.0], [2e38, 0.0, 0.0]], requires_grad=True)
    distances = anchor_distances(logits, 10.0 * torch.eye(3))
    torch.testing.assert_close(distances, torch.tensor([[5e20] * 3, [2e38] * 3]))
    terms = tuplet_loss(distances, torch.tensor([0, 2])) + 1e-20 * anchor_loss(distances, torch.tensor([0, 2]))
    (gradient,) = torch.autograd.grad(terms, logits)
    assert bool(terms.isfinite()) and bool(gradient.isfinite().all())


@pytest.mark.parametrize("magnitude", [1e-3, 1.0, 1e4, 1e10])
def test_ordinary_distances_are_the_plain_norm_bit_for_bit(magnitude: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (magnitude * torch.randn(50, 6, generator=generator)).requires_grad_()
    anchors, weights = 10.0 * torch.eye(6), torch.randn(50, 6, generator=generator)
    plain = torch.linalg.vector_norm(logits[:, None, :] - anchors, dim=2)
    distances = anchor_distances(logits, anchors)
    assert torch.equal(distances, plain)
    gradients = [torch.autograd.grad((value * weights).sum(), logits)[0] for value in (distances, plain)]
    assert torch.equal(*gradients)


def test_at_distance_zero_the_gradient_is_finite() -> None:
    """The anchor term pulls no more; the tuplet term still pushes away from the other anchors."""
    logits = torch.tensor([[10.0, 0.0, 0.0]], requires_grad=True)
    distances = anchor_distances(logits, 10 * torch.eye(3))
    (pull,) = torch.autograd.grad(anchor_loss(distances, torch.tensor([0])), logits, retain_graph=True)
    (push,) = torch.autograd.grad(tuplet_loss(distances, torch.tensor([0])), logits)
    assert pull.tolist() == [[0.0, 0.0, 0.0]]
    assert torch.isfinite(push).all() and push[0, 0] < 0 < push[0, 1]


@pytest.mark.parametrize(
    ("settings", "left", "scale"),
    [({"anchor_weight": 0.0}, "tuplet", 1.0), ({"tuplet_weight": 0.0}, "anchor", 0.1)],
)
def test_one_term_alone(settings: dict, left: str, scale: float) -> None:
    features = torch.randn(4, 6)
    batch = (images(4), torch.tensor([0, 1, 2, 0]))
    alone = make(**settings)
    terms = alone.losses(Rows(features), batch)
    assert terms.keys() == {left} and alone.loss_scale == scale
    torch.testing.assert_close(terms[left], make().losses(Rows(features), batch)[left])


def test_forward_fills_what_it_promises() -> None:
    objective = make()
    encoder = Rows(torch.randn(4, 6))
    outputs = objective(encoder, images(4))
    assert outputs.available() == CAC.provides
    assert outputs.logits is not None and outputs.logits.shape == (4, 3)
    torch.testing.assert_close(outputs.embedding, pool(encoder(images(4))))
    assert isinstance(make_objective("cac", SHAPES, (3, 32, 32), 2, CACConfig()), CAC)


def test_anchors_are_fixed_and_follow_alpha() -> None:
    objective = make(alpha=7.0)
    assert torch.equal(objective.anchors, 7.0 * torch.eye(3))
    assert {name for name, _ in objective.named_parameters()} == {"to_logits.weight", "to_logits.bias"}
    assert "anchors" not in objective.state_dict()


def test_training_gathers_the_logits_at_the_anchors() -> None:
    objective = make()
    features, labels = 3 * torch.eye(6)[[0, 1, 2, 0]], torch.tensor([0, 1, 2, 0])
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.1, momentum=0.9)
    for _ in range(300):
        optimizer.zero_grad()
        torch.stack(list(objective.losses(Rows(features), (images(4), labels)).values())).sum().backward()
        optimizer.step()
    distances = objective(Rows(features), images(4)).distances
    assert distances is not None and distances.argmin(1).equal(labels)
    assert distances.gather(1, labels[:, None]).max() < 1.0


def test_bf16_autocast_stays_close_and_losses_are_float32() -> None:
    objective = make()
    encoder, labels = Rows(torch.randn(4, 6, generator=torch.Generator().manual_seed(5))), torch.tensor([0, 1, 2, 0])
    exact = objective.losses(encoder, (images(4), labels))
    with torch.autocast("cpu", torch.bfloat16):
        terms = objective.losses(encoder, (images(4), labels))
    for name, value in terms.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact[name], rtol=0.02, atol=0.02)


@settings(max_examples=30, deadline=None)
@given(magnitude=st.floats(0.0, 1e15), count=st.integers(1, 4), classes=st.integers(1, 5), alpha=st.floats(1e-3, 1e6))
def test_losses_and_gradients_are_finite(magnitude: float, count: int, classes: int, alpha: float) -> None:
    """One class in the batch, a single class in all, and huge logits included."""
    objective = make(classes, alpha=alpha)
    features = magnitude * torch.randn(count, 6, generator=torch.Generator().manual_seed(4))
    terms = objective.losses(Rows(features), (images(count), torch.full((count,), classes - 1)))
    assert all(torch.isfinite(value) for value in terms.values()), terms
    for gradient in torch.autograd.grad(torch.stack(list(terms.values())).sum(), list(objective.parameters())):
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 0.0}, "alpha must be greater than 0"),
        ({"anchor_weight": -0.1}, "anchor_weight must not be negative"),
        ({"tuplet_weight": 0, "anchor_weight": 0}, "both 0"),
        ({"lambda": 0.1}, "no setting 'lambda'"),
    ],
)
def test_wrong_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_objective_config("cac", settings, make_protocol("cifar10"), "retrain")


def test_paper_coefficients_are_the_defaults() -> None:
    config = resolve_objective_config("cac", {}, make_protocol("cifar10"), "retrain")
    assert (config.alpha, config.anchor_weight, config.tuplet_weight) == (10.0, 0.1, 1.0)
