"""MSP, MLS, energy and GEN against scipy and pytorch-ood, and where a plain softmax saturates."""

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_osr.errors import UserError
from nas_osr.outputs import Outputs
from nas_osr.scoring import make_rule

RULES = ["msp", "mls", "energy", "gen"]


def knownness(name, logits):
    return make_rule(name).scores(Outputs(logits=torch.as_tensor(logits))).knownness.numpy()


def test_scores_match_scipy():
    logits = np.random.default_rng(0).normal(scale=4, size=(100, 6))
    np.testing.assert_allclose(
        knownness("msp", logits), scipy.special.log_softmax(logits, axis=1).max(axis=1), atol=1e-12
    )
    np.testing.assert_allclose(np.exp(knownness("msp", logits)), scipy.special.softmax(logits, axis=1).max(axis=1))
    np.testing.assert_array_equal(knownness("mls", logits), logits.max(axis=1))
    np.testing.assert_allclose(knownness("energy", logits), scipy.special.logsumexp(logits, axis=1))


def test_msp_keeps_confident_images_apart():
    gaps = torch.tensor([1.0, 30.0, 40.0, 100.0, 300.0, 700.0])
    logits = torch.stack([gaps, torch.zeros(6), torch.zeros(6)], dim=1)
    assert (np.diff(knownness("msp", logits)) > 0).all()
    np.testing.assert_allclose(knownness("msp", logits)[2:], -2 * (-gaps[2:].double()).exp())


def test_gen_is_that_of_pytorch_ood():
    """In double precision, where its clamping of probabilities does not show; it takes the mean, the paper the sum."""
    from pytorch_ood.detector import GEN

    logits = torch.as_tensor(np.random.default_rng(0).normal(scale=2, size=(100, 6)))
    for top in (3, 6):
        found = make_rule("gen", {"gamma": 0.2, "top": top}).scores(Outputs(logits=logits)).knownness
        torch.testing.assert_close(found, -top * GEN.score(logits, gamma=0.2, M=top), rtol=1e-9, atol=0)


def test_gen_keeps_confident_images_apart():
    gaps = torch.tensor([10.0, 30.0, 40.0, 100.0, 300.0, 700.0])
    logits = torch.stack([gaps, torch.zeros(6), torch.zeros(6)], dim=1)
    assert (np.diff(knownness("gen", logits)) > 0).all()


def test_msp_of_equal_logits_and_of_one_class():
    np.testing.assert_allclose(knownness("msp", np.zeros((1, 5))), [-np.log(5)])
    np.testing.assert_array_equal(knownness("msp", np.array([[3.0], [-2.0]])), [0.0, 0.0])


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from(RULES),
    st.lists(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=3, max_size=3), min_size=1),
)
def test_finite_logits_give_finite_scores(name, logits):
    assert np.isfinite(knownness(name, torch.tensor(logits, dtype=torch.float32))).all()


@pytest.mark.parametrize("name", RULES)
def test_threshold_accepts_the_share_and_predict_uses_it(name):
    logits = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    rule = make_rule(name, {"acceptance": 0.8})
    rule.set_threshold(Outputs(logits=logits), logits.argmax(1))
    predicted = rule.decide(rule.scores(Outputs(logits=logits)))
    assert (predicted < 3).float().mean() == pytest.approx(0.8)
    rejected = rule.scores(Outputs(logits=logits)).knownness < rule.threshold
    assert torch.equal(predicted, torch.where(rejected, 3, logits.argmax(1)))
    assert rule.scores(Outputs(logits=logits)).labels.equal(logits.argmax(1))
    other = make_rule(name)
    other.load_state_dict(rule.state_dict())
    assert torch.equal(other.decide(other.scores(Outputs(logits=logits))), predicted)


def test_deciding_without_a_threshold_is_a_programming_error():
    rule = make_rule("mls")
    with pytest.raises(RuntimeError, match="set_threshold"):
        rule.decide(rule.scores(Outputs(logits=torch.zeros(1, 2))))


def test_scores_that_are_not_numbers_are_refused():
    logits = torch.tensor([[0.0, 1.0], [float("nan"), 0.0]])
    with pytest.raises(UserError, match=r"'energy'.*diverged"):
        make_rule("energy").set_threshold(Outputs(logits=logits), torch.tensor([1, 0]))
