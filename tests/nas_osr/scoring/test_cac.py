"""The CAC rule against explicit loops, and where a plain 1 - softmin rounds to 0."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch import Tensor

from nas_osr.errors import UserError
from nas_osr.objectives import objective_class
from nas_osr.outputs import Outputs
from nas_osr.scoring import check_rule, make_rule
from nas_osr.scoring.cac import CAC


def made_up(count: int, classes: int = 3, seed: int = 0, spread: float = 2.0) -> tuple[Outputs, Tensor]:
    """Logits scattered around 10 e_y, some of them wrong, and the targets."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % classes
    noise = torch.randn(count, classes, generator=generator)
    return Outputs(logits=10 * torch.eye(classes)[targets] + 3 * spread * noise), targets


def with_anchors(anchors: Tensor) -> CAC:
    rule = CAC()
    rule.anchors = anchors.double()
    return rule


def rejection_by_loops(logits: list[float], anchors: list[list[float]]) -> list[float]:
    """s of one image in 200 digits."""
    with localcontext() as context:
        context.prec = 200
        pairs = [zip(logits, row, strict=True) for row in anchors]
        d = [sum(((Decimal(z) - Decimal(c)) ** 2 for z, c in pair), Decimal(0)).sqrt() for pair in pairs]
        total = sum((-value).exp() for value in d)
        return [float((1 - (-value).exp() / total) * value) for value in d]


def test_anchors_are_the_mean_logits_of_correct_images() -> None:
    outputs, targets = made_up(60)
    rule = CAC()
    rule.fit(outputs, targets, SimpleNamespace(anchors=torch.full((3, 3), math.nan)))
    assert outputs.logits is not None and rule.anchors is not None
    expected = []
    for label in range(3):
        rows = [
            row
            for row, target in zip(outputs.logits.tolist(), targets.tolist(), strict=True)
            if target == label and max(range(3), key=row.__getitem__) == label
        ]
        assert 0 < len(rows) < 20
        expected.append([sum(column) / len(rows) for column in zip(*rows, strict=True)])
    np.testing.assert_allclose(rule.anchors.numpy(), expected, rtol=1e-12)
    assert rule.anchors.dtype == torch.float64


def test_a_class_without_a_correct_image_keeps_its_training_anchor() -> None:
    """Class 1 has images, all wrong; class 2 has none at all."""
    logits = torch.tensor([[4.0, 1.0, 0.0], [6.0, 3.0, 0.0], [5.0, 0.0, 1.0]])
    targets = torch.tensor([0, 0, 1])
    own = torch.tensor([[7.0, 1.0, 0.0], [0.0, 7.0, 1.0], [1.0, 0.0, 7.0]], dtype=torch.float64)
    for objective, kept in (
        (SimpleNamespace(anchors=own), own),
        (None, 5.0 * torch.eye(3)),
        (SimpleNamespace(), 5.0 * torch.eye(3)),
    ):
        rule = make_rule("cac", {"alpha": 5.0})
        assert isinstance(rule, CAC)
        rule.fit(Outputs(logits=logits), targets, objective)
        assert rule.anchors is not None
        assert rule.anchors.tolist() == [[5.0, 2.0, 0.0], *kept[1:].tolist()]
    assert own[0].tolist() == [7.0, 1.0, 0.0]  # the objective's own anchors are untouched


def test_rejection_equals_its_definition() -> None:
    outputs, targets = made_up(30, classes=4)
    rule = CAC()
    rule.fit(outputs, targets)
    assert outputs.logits is not None and rule.anchors is not None
    rows = outputs.logits.double().tolist()
    expected = np.array([rejection_by_loops(row, rule.anchors.tolist()) for row in rows])
    scores = rule.scores(outputs)
    np.testing.assert_allclose(scores.knownness.numpy(), -expected.min(axis=1), rtol=1e-10)
    np.testing.assert_array_equal(scores.labels.numpy(), expected.argmin(axis=1))
    np.testing.assert_allclose(scores.class_scores.numpy(), -expected, rtol=1e-10)


def test_by_hand() -> None:
    """Anchors (10, 0) and (0, 10). At an anchor s = 0; half-way softmin is 1/2 and s = d / 2."""
    rule = with_anchors(10 * torch.eye(2))
    outputs = Outputs(logits=torch.tensor([[10.0, 0.0], [5.0, 5.0], [0.0, 0.0]]))
    expected = [[0.0, 200**0.5 / (1 + math.exp(-(200**0.5)))], [50**0.5 / 2] * 2, [5.0, 5.0]]
    np.testing.assert_allclose(-rule.scores(outputs).class_scores.numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(rule.scores(outputs).knownness.numpy(), [0.0, -(50**0.5) / 2, -5.0])


def test_the_label_is_the_nearest_anchor_not_the_largest_logit() -> None:
    rule = with_anchors(torch.tensor([[10.0, 8.0], [0.0, 10.0]]))
    outputs = Outputs(logits=torch.tensor([[8.0, 9.0]]))
    assert rule.scores(outputs).labels.item() == 0
    rule.threshold = -math.inf
    assert rule.decide(rule.scores(outputs)).item() == 0
    rule.threshold = 0.0
    assert rule.decide(rule.scores(outputs)).item() == 2


def test_confident_images_keep_their_order() -> None:
    """With long anchors 1 - softmin rounds to 0 in float64; the order must survive."""
    anchors = 100 * torch.eye(3)
    logits = torch.tensor([[100.0 - gap, 0.0, 0.0] for gap in (1.0, 2.0, 4.0, 8.0)])
    knownness = with_anchors(anchors).scores(Outputs(logits=logits)).knownness.numpy()
    expected = [-min(rejection_by_loops(row, anchors.tolist())) for row in logits.tolist()]
    assert (np.diff(knownness) < 0).all() and knownness[0] > -1e-20
    np.testing.assert_allclose(knownness, expected, rtol=1e-10)


def test_threshold_and_state_round_trip() -> None:
    rule = CAC(acceptance=0.8)
    rule.fit(*made_up(200))
    validation, targets = made_up(400, seed=1)
    rule.set_threshold(validation, targets)
    predicted = rule.decide(rule.scores(validation))
    assert (predicted < 3).double().mean().item() == pytest.approx(0.8)
    other = CAC()
    other.load_state_dict(rule.state_dict())
    assert other.decide(other.scores(validation)).equal(predicted)
    assert other.anchors is not None and rule.anchors is not None and other.anchors.equal(rule.anchors)


def test_bf16_logits_are_scored_in_float64() -> None:
    outputs, targets = made_up(40)
    half = outputs.map(lambda tensor: tensor.bfloat16())
    rule, exact = CAC(), CAC()
    rule.fit(half, targets)
    exact.fit(half.map(lambda tensor: tensor.double()), targets)
    scores = rule.scores(half).class_scores
    assert scores.dtype == torch.float64
    assert scores.equal(exact.scores(half.map(lambda tensor: tensor.double())).class_scores)


def test_one_class() -> None:
    logits = torch.tensor([[9.0], [-3.0], [1e30]])
    rule = CAC()
    rule.fit(Outputs(logits=logits[:1]), torch.zeros(1, dtype=torch.int64))
    rule.set_threshold(Outputs(logits=logits[:2]), torch.zeros(2, dtype=torch.int64))
    assert rule.scores(Outputs(logits=logits)).knownness.tolist() == [0.0, 0.0, 0.0]
    assert rule.decide(rule.scores(Outputs(logits=logits))).tolist() == [0, 0, 0]


@settings(max_examples=60, deadline=None)
@given(
    npst.arrays(
        np.float64,
        st.tuples(st.integers(1, 6), st.integers(1, 4)),
        elements=st.floats(allow_nan=False, allow_infinity=False),
    ),
    st.integers(0, 5),
)
def test_finite_logits_give_finite_scores(logits: np.ndarray, seed: int) -> None:
    """Up to the largest float64; s is least at the label."""
    outputs = Outputs(logits=torch.from_numpy(logits))
    rule = CAC()
    rule.fit(outputs, torch.randint(0, logits.shape[1], (len(logits),), generator=torch.Generator().manual_seed(seed)))
    scores = rule.scores(outputs)
    rejection = -scores.class_scores
    assert torch.isfinite(rejection).all() and (rejection >= 0).all()
    assert (rejection.gather(1, scores.labels[:, None])[:, 0] == -scores.knownness).all()


def test_mistakes() -> None:
    for alpha in (0, -1.0, math.nan, math.inf, True, "ten"):
        with pytest.raises(UserError, match="'cac': alpha must be a number greater than 0"):
            make_rule("cac", {"alpha": alpha})
    with pytest.raises(RuntimeError, match="fit comes before"):
        CAC().scores(Outputs(logits=torch.zeros(1, 2)))
    rule = CAC()
    rule.fit(*made_up(30))
    with pytest.raises(UserError, match="diverged"):
        rule.set_threshold(Outputs(logits=torch.full((2, 3), math.nan)), torch.tensor([0, 1]))


@pytest.mark.parametrize("name", ["cac", "cross_entropy", "vae_contrastive"])
def test_every_objective_with_logits_feeds_it(name: str) -> None:
    check_rule(CAC, objective_class(name))
