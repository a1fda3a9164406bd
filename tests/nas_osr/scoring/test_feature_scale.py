"""No rule on features depends on their unit: a network whose last layer takes them up again ranks alike."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch import Tensor

from nas_osr.outputs import Outputs
from nas_osr.scoring import RULES, make_rule, rule_class
from tests.nas_osr.scoring.linear_outputs import linear_outputs

# CROSR measures distances of logits and latents together, which is the paper's, and needs both in one unit
RULES_ON_FEATURES = sorted(
    name
    for name in RULES
    if name != "crosr" and "embedding" in rule_class(name).needs and not rule_class(name).needs_network
)
MAHALANOBIS = ("mahalanobis", "relative_mahalanobis")


def narrow_outputs(size: int, seed: int, known: bool = True) -> tuple[Outputs, Tensor]:
    """Float64 features that vary by .002 to .2, as those of a short training may, one of them not at all."""
    outputs, targets = linear_outputs(size, seed, known)
    assert outputs.embedding is not None
    sizes = 0.2 * torch.logspace(0, -2, 12, dtype=torch.float64)
    sizes[3] = 0.0
    return Outputs(logits=outputs.embedding @ torch.ones(12, 4).double(), embedding=outputs.embedding * sizes), targets


def ranking(name: str, scale: float, make=linear_outputs) -> Tensor:
    """[180] of 90 known and 90 unknown images, whose features are `scale` times as large."""

    def scaled(size: int, seed: int, known: bool = True) -> tuple[Outputs, Tensor]:
        outputs, targets = make(size, seed, known)
        assert outputs.embedding is not None
        return Outputs(logits=outputs.logits, embedding=scale * outputs.embedding), targets

    rule = make_rule(name)
    rule.fit(*scaled(400, 0))
    return torch.cat([rule.scores(scaled(90, 1)[0]).ranking, rule.scores(scaled(90, 2, known=False)[0]).ranking])


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1e3, 1e9])
@pytest.mark.parametrize("name", RULES_ON_FEATURES)
def test_the_order_of_images_is_the_same(name: str, scale: float) -> None:
    assert spearmanr(ranking(name, scale), ranking(name, 1.0)).statistic > 1 - 1e-9


@pytest.mark.parametrize("name", MAHALANOBIS)
@given(power=st.integers(-40, 40))
@settings(max_examples=25, deadline=None)
def test_distances_have_no_unit(name: str, power: int) -> None:
    """Also where a feature is constant, and others vary a hundred times as much as some."""
    found, usual = ranking(name, 10.0**power, narrow_outputs), ranking(name, 1.0, narrow_outputs)
    torch.testing.assert_close(found, usual, rtol=1e-6, atol=1e-6 * float(usual.abs().max()))


@pytest.mark.parametrize("name", MAHALANOBIS)
def test_features_that_never_vary_are_compared_as_they_are(name: str) -> None:
    rule = make_rule(name)
    rule.fit(Outputs(embedding=torch.ones(6, 3)), torch.tensor([0, 1, 0, 1, 0, 1]))
    found = rule.scores(Outputs(embedding=torch.tensor([[1.0, 1.0, 1.0], [1.0, 3.0, 1.0]]))).knownness
    assert found.tolist() == ([0.0, -4.0] if name == "mahalanobis" else [0.0, 0.0])
