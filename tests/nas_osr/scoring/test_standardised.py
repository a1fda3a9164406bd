"""The largest logit on the scale of its class, against NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_osr.errors import UserError
from nas_osr.outputs import Outputs
from nas_osr.scoring.standardised import SML

SIZES = torch.tensor([4.0, 8.0, 16.0])  # of the logits, class by class


def made_up(count: int, seed: int = 0, noise: float = 0.5) -> tuple[Outputs, torch.Tensor]:
    """Logits whose size differs from class to class, some of them wrong, and targets."""
    generator, targets = torch.Generator().manual_seed(seed), torch.arange(count) % 3
    logits = SIZES * (torch.eye(3)[targets] + noise * torch.randn(count, 3, generator=generator))
    return Outputs(logits=logits), targets


def fitted(outputs: Outputs, targets: torch.Tensor) -> SML:
    rule = SML()
    rule.set_threshold(outputs, targets)
    return rule


def test_means_and_deviations_are_of_all_images_that_are_taken_for_a_class() -> None:
    outputs, targets = made_up(300)
    rule = fitted(outputs, targets)
    logits = outputs.logits.double().numpy()
    taken, largest = logits.argmax(axis=1), logits.max(axis=1)
    assert 0 < (taken != targets.numpy()).sum() < 100
    new, _ = made_up(200, seed=1)
    values = new.logits.double().numpy()
    scores = rule.scores(new)
    for value, knownness in zip(values, scores.knownness.tolist(), strict=True):
        same = largest[taken == value.argmax()]
        assert knownness == pytest.approx((value.max() - np.mean(same)) / np.std(same))
    assert torch.equal(scores.class_scores, new.logits.double())


def test_what_is_large_for_its_class_alone_is_told_apart() -> None:
    """The largest logit cannot: an unknown image that looks a little like class 2 has more than all of class 0."""
    rule = fitted(*made_up(300, noise=0.05))
    known, unknown = torch.tensor([[4.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 9.0]])
    scores = rule.scores(Outputs(logits=torch.cat([known, unknown])))
    assert scores.knownness[0] > rule.threshold > scores.knownness[1]
    assert rule.decide(scores).tolist() == [0, 3]


def test_the_threshold_is_on_the_scale_of_the_classes() -> None:
    outputs, targets = made_up(300)
    rule = fitted(outputs, targets)
    assert rule.threshold == pytest.approx(np.percentile(rule.scores(outputs).knownness, 5))


def test_a_class_that_few_are_taken_for_is_judged_by_all() -> None:
    own = 4.0 + torch.arange(5.0)
    logits = torch.zeros(14, 4)
    logits[:5, 0], logits[5:9, 1], logits[9:, 2] = own, 2 * own[:4], 9.0  # five that are the same for class 2
    rule = fitted(Outputs(logits=logits), torch.zeros(14, dtype=torch.int64))
    largest = logits.max(dim=1).values.double().numpy()
    mean, deviation = np.mean(largest), np.std(largest)
    np.testing.assert_allclose(rule.means, [6.0, mean, mean, mean])
    np.testing.assert_allclose(rule.deviations, [np.std(own.numpy()), deviation, deviation, deviation])
    assert rule.threshold_source()["classes_by_all"] == [1, 2, 3]


def test_one_image_is_enough_to_go_on() -> None:
    rule = fitted(Outputs(logits=torch.tensor([[2.0, 1.0]])), torch.tensor([0]))
    assert rule.scores(Outputs(logits=torch.tensor([[5.0, 1.0]]))).knownness.tolist() == [3.0]
    assert rule.threshold == 0.0


def test_no_image_and_no_number_are_refused() -> None:
    with pytest.raises(UserError, match="'sml': no known validation image"):
        fitted(Outputs(logits=torch.zeros(0, 2)), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(UserError, match="'sml': scores of known validation images are not numbers.*diverged"):
        fitted(Outputs(logits=torch.full((2, 2), math.nan)), torch.tensor([0, 1]))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 100.0), shift=st.floats(-100.0, 100.0))
def test_neither_the_scale_nor_the_origin_of_logits_matters(seed: int, scale: float, shift: float) -> None:
    outputs, targets = made_up(60, seed)
    test, _ = made_up(30, seed + 1)
    expected = fitted(outputs, targets).scores(test).knownness
    changed = [Outputs(logits=scale * part.logits.double() + shift) for part in (outputs, test)]
    torch.testing.assert_close(fitted(changed[0], targets).scores(changed[1]).knownness, expected, rtol=1e-6, atol=1e-6)
