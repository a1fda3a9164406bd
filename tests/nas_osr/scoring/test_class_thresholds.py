"""A threshold for each class, against NumPy's percentiles."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nas_osr.errors import UserError
from nas_osr.outputs import Outputs
from nas_osr.scoring.class_thresholds import ClassThresholds


def made_up(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits whose size differs from class to class, some of them wrong, and targets."""
    generator, targets = torch.Generator().manual_seed(seed), torch.arange(count) % 3
    sizes = torch.tensor([4.0, 8.0, 16.0])
    return sizes * (torch.eye(3)[targets] + 0.4 * torch.randn(count, 3, generator=generator)), targets


def test_thresholds_are_percentiles_of_correct_images() -> None:
    logits, targets = made_up(300)
    rule = ClassThresholds(acceptance=0.9)
    rule.set_threshold(Outputs(logits=logits), targets)
    values, true = logits.double().numpy(), targets.numpy()
    right = values.argmax(axis=1) == true
    assert 0 < right.sum() < 300
    expected = [np.percentile(values[right & (true == label), label], 10) for label in range(3)]
    assert rule.threshold == pytest.approx(np.percentile(values.max(axis=1)[right], 10))
    np.testing.assert_allclose(rule.threshold - rule.offsets, expected)
    new, _ = made_up(200, seed=1)
    scores = rule.scores(Outputs(logits=new))
    largest, labels = new.double().numpy().max(axis=1), new.numpy().argmax(axis=1)
    accepted = largest >= np.array(expected)[labels]
    assert rule.decide(scores).tolist() == np.where(accepted, labels, 3).tolist() and 0 < accepted.sum() < 200
    np.testing.assert_allclose(scores.ranking, largest)
    np.testing.assert_allclose(scores.knownness - rule.threshold, largest - np.array(expected)[labels])


def test_a_class_without_a_correct_image_has_the_threshold_of_all() -> None:
    logits = torch.tensor([[4.0, 1.0, 0.0], [6.0, 3.0, 0.0], [5.0, 0.0, 1.0]])
    rule = ClassThresholds(acceptance=0.5)
    rule.set_threshold(Outputs(logits=logits), torch.tensor([0, 0, 1]))
    assert rule.threshold == 5.0 and rule.offsets.tolist() == [0.0, 0.0, 0.0]
    rule.set_threshold(Outputs(logits=logits), torch.tensor([1, 1, 2]))
    assert rule.threshold == 5.0 and rule.offsets.tolist() == [0.0, 0.0, 0.0]
    logits[1] = torch.tensor([3.0, 9.0, 0.0])
    rule.set_threshold(Outputs(logits=logits), torch.tensor([0, 1, 1]))
    assert rule.threshold == 6.5 and rule.offsets.tolist() == [2.5, -2.5, 0.0]


def test_no_image_and_no_number_are_refused() -> None:
    with pytest.raises(UserError, match="no known validation image"):
        ClassThresholds().set_threshold(Outputs(logits=torch.zeros(0, 2)), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(UserError, match="diverged"):
        ClassThresholds().set_threshold(Outputs(logits=torch.full((2, 2), math.nan)), torch.tensor([0, 1]))
