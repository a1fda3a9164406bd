"""Weights of a checkpoint that do not fit are refused in one line."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nas_osr.errors import UserError
from nas_osr.training.learner import restore_weights


def test_weights_that_fit_are_loaded() -> None:
    given, taken = nn.Linear(2, 3), nn.Linear(2, 3)
    restore_weights(taken, given.state_dict(), "x")
    assert torch.equal(taken.weight, given.weight) and torch.equal(taken.bias, given.bias)


@pytest.mark.parametrize(
    ("weights", "wrong"),
    [
        ({"weight": torch.zeros(3, 2)}, 'Missing key.*"bias"'),
        ({"weight": torch.zeros(3, 2), "bias": torch.zeros(4)}, "size mismatch for bias"),
        ({**nn.Linear(2, 3).state_dict(), "other": torch.zeros(1)}, 'Unexpected key.*"other"'),
        ({f"long_name_{number}": torch.zeros(1) for number in range(1000)}, "Missing key"),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(weights: dict[str, torch.Tensor], wrong: str) -> None:
    with pytest.raises(UserError, match=f"^checkpoint.pt does not fit: {wrong}") as refused:
        restore_weights(nn.Linear(2, 3), weights, "checkpoint.pt does not fit")
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 250
