"""CROSR's rule against scipy's Weibull distribution and an explicit loop over images and classes."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_osr.errors import UserError
from nas_osr.outputs import Outputs
from nas_osr.scoring.crosr import CROSR
from nas_osr.scoring.weibull import fit_weibull

MEDIAN = -math.log(math.log(2))  # the knownness where P is 0.5


def make_outputs(size, num_known=4, seed=0, height=3.0, spread=1.0, width=5):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(num_known, (size,), generator=generator)
    logits = height * torch.eye(num_known)[targets] + spread * torch.randn(size, num_known, generator=generator)
    embedding = targets[:, None] + spread * torch.randn(size, width, generator=generator)
    return Outputs(logits=logits, embedding=embedding), targets


def fitted(**settings_):
    rule = CROSR(**settings_)
    rule.fit(*make_outputs(400, seed=1))
    return rule


@pytest.mark.parametrize("tail", [5, 20, 1000])
def test_scores_against_a_loop(tail):
    train, targets = make_outputs(800, seed=1)
    test, _ = make_outputs(60, seed=2, height=2.0, spread=1.2)
    rule = CROSR(tail=tail)
    rule.fit(train, targets)
    vectors = np.concatenate([train.logits.double().numpy(), train.embedding.double().numpy()], axis=1)
    right = train.logits.numpy().argmax(axis=1) == targets.numpy()
    assert 0.5 < right.mean() < 1
    models = []
    for label in range(4):
        own = vectors[right & (targets.numpy() == label)]
        mean = sum(own) / len(own)
        distances = sorted(float(np.sqrt(((row - mean) ** 2).sum())) for row in own)
        count = min(tail, math.ceil(len(own) / 10))
        models.append((mean, fit_weibull(np.array(distances[-count:]))))
    probabilities = []
    for logits, latents in zip(test.logits.double().numpy(), test.embedding.double().numpy(), strict=True):
        mean, (shape, scale) = models[int(np.argmax(logits))]
        distance = np.linalg.norm(np.concatenate([logits, latents]) - mean)
        probabilities.append(scipy.stats.weibull_min.sf(distance, shape, scale=scale))
    probabilities = np.array(probabilities)
    np.testing.assert_allclose(
        torch.exp(-torch.exp(-rule.scores(test).knownness)), probabilities, rtol=1e-6, atol=1e-12
    )
    rule.set_threshold(*make_outputs(50, seed=3))
    expected = np.where(probabilities < 0.5, 4, test.logits.numpy().argmax(axis=1))
    assert 0 < (expected == 4).sum() < 60
    np.testing.assert_array_equal(rule.decide(rule.scores(test)), expected)


def test_means_and_step_by_hand():
    """Two correct images of class 0 at distance 1 from their mean; one misclassified that does not count."""
    outputs = Outputs(
        logits=torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 9.0], [0.0, 2.0]]),
        embedding=torch.tensor([[0.0], [2.0], [50.0], [0.0]]),
    )
    rule = CROSR()
    rule.fit(outputs, torch.tensor([0, 0, 0, 1]))
    assert rule.means.tolist() == [[2.0, 0.0, 1.0], [0.0, 2.0, 0.0]]
    assert rule.scales[0].item() == pytest.approx(1.0, rel=1e-3)
    inside = Outputs(logits=torch.tensor([[2.0, 0.0]]), embedding=torch.tensor([[1.9]]))
    outside = Outputs(logits=torch.tensor([[2.0, 0.0]]), embedding=torch.tensor([[2.1]]))
    rule.set_threshold(outputs, torch.tensor([0, 0, 0, 1]))
    assert rule.threshold == pytest.approx(MEDIAN)
    assert rule.decide(rule.scores(inside)).tolist() == [0] and rule.decide(rule.scores(outside)).tolist() == [2]


def test_latents_alone_can_reject():
    rule = fitted()
    rule.set_threshold(*make_outputs(50, seed=3))
    known = Outputs(logits=rule.means[1:2, :4], embedding=rule.means[1:2, 4:])
    strange = Outputs(logits=known.logits, embedding=known.embedding + 10)
    assert rule.decide(rule.scores(known)).tolist() == [1] and rule.decide(rule.scores(strange)).tolist() == [4]


def test_far_and_near_images_stay_apart():
    """P is 0 or 1 to the last digit for all of these."""
    rule = fitted()
    for offsets in (torch.tensor([100.0, 200.0, 1e4, 1e8]), torch.tensor([1e-9, 1e-7, 1e-5])):
        logits = rule.means[:1, :4].expand(len(offsets), 4)
        embedding = rule.means[:1, 4:] + offsets[:, None]
        knownness = rule.scores(Outputs(logits=logits, embedding=embedding)).knownness
        probability = torch.exp(-torch.exp(-knownness))
        assert len(set(probability.tolist())) == 1
        assert (knownness.diff() < 0).all()


def test_a_small_class_keeps_most_of_its_images():
    """Whatever `tail` says: a twentieth of its training images lies beyond P = 0.5, or one where it has ten."""
    for size in (40, 200, 2000):
        outputs, targets = make_outputs(size, height=20.0)
        rule = CROSR()
        rule.fit(outputs, targets)
        rule.set_threshold(outputs, targets)
        assert (rule.decide(rule.scores(outputs)) < 4).double().mean() >= 0.89


def test_threshold_from_validation_where_no_probability_is_given():
    rule = fitted(probability=None, acceptance=0.9)
    validation, targets = make_outputs(501, seed=3)
    rule.set_threshold(validation, targets)
    assert (rule.decide(rule.scores(validation)) < 4).sum() == 451


def test_class_without_a_correct_image_or_any_image():
    outputs, targets = make_outputs(100)
    outputs.logits[:, 2] = -50 + torch.arange(100) / 10
    rule = CROSR()
    rule.fit(outputs, targets)
    torch.testing.assert_close(rule.means[2, 4:], outputs.embedding[targets == 2].double().mean(0))
    rule.fit(outputs[targets != 3], targets[targets != 3])
    assert rule.usable.tolist() == [True, True, True, False]
    rule.set_threshold(outputs, targets)
    as_third = Outputs(logits=torch.eye(4)[3:], embedding=torch.zeros(1, 5))
    assert rule.scores(as_third).knownness.tolist() == [-1e100] and rule.decide(rule.scores(as_third)).tolist() == [4]


def test_one_image():
    rule = CROSR()
    rule.fit(Outputs(logits=torch.tensor([[2.0]]), embedding=torch.tensor([[1.0]])), torch.tensor([0]))
    knownness = rule.scores(
        Outputs(logits=torch.tensor([[2.0], [3.0]]), embedding=torch.tensor([[1.0], [5.0]]))
    ).knownness
    assert torch.isfinite(knownness).all() and knownness[0] > knownness[1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.floats(allow_nan=False), min_size=5, max_size=5), min_size=6, max_size=6))
def test_any_outputs_give_finite_scores(rows):
    values = torch.tensor(rows, dtype=torch.float64)
    outputs, targets = Outputs(logits=values[:, :3], embedding=values[:, 3:]), torch.tensor([0, 1, 2, 0, 1, 0])
    rule = CROSR(tail=2)
    rule.fit(outputs[:5], targets[:5])
    rule.set_threshold(outputs[:5], targets[:5])
    knownness = rule.scores(outputs).knownness
    assert torch.isfinite(knownness).all()
    assert torch.equal(rule.decide(rule.scores(outputs)) == 3, knownness < rule.threshold)


@pytest.mark.parametrize("setting", [{"tail": 0}, {"probability": 0}, {"probability": 1.0}, {"probability": "half"}])
def test_impossible_settings_are_refused(setting):
    with pytest.raises(UserError, match=f"'crosr': {next(iter(setting))} must"):
        CROSR(**setting)


def test_missing_or_diverged_images_are_refused():
    outputs, targets = make_outputs(20)
    rule = fitted()
    with pytest.raises(UserError, match="no known training image"):
        CROSR().fit(outputs[:0], targets[:0])
    with pytest.raises(UserError, match="no known validation image"):
        rule.set_threshold(outputs[:0], targets[:0])
    outputs.embedding[3, 0] = math.nan
    with pytest.raises(UserError, match="'crosr': logits and embedding.*diverged"):
        CROSR().fit(outputs, targets)
    with pytest.raises(UserError, match="'crosr'.*diverged"):
        rule.set_threshold(outputs, targets)
