"""OpenMax against scipy's Weibull fit and an explicit loop over images and classes."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_osr.errors import UserError
from nas_osr.outputs import Outputs
from nas_osr.scoring.openmax import OpenMax
from nas_osr.scoring.weibull import SHAPES, fit_weibull


def make_outputs(size, num_known=4, seed=0, height=3.0, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(num_known, (size,), generator=generator)
    logits = height * torch.eye(num_known)[targets] + spread * torch.randn(size, num_known, generator=generator)
    return Outputs(logits=logits), targets


def fitted(seed=1, num_known=4, **settings_):
    rule = OpenMax(**settings_)
    rule.fit(*make_outputs(400, num_known, seed=seed))
    return rule


@pytest.mark.parametrize("shape", [0.5, 2.0, 30.0])
def test_weibull_is_scipys(shape):
    distances = scipy.stats.weibull_min.rvs(shape, scale=3.0, size=20, random_state=0)
    found = fit_weibull(distances)
    expected, _, scale = scipy.stats.weibull_min.fit(distances, floc=0)
    assert found == pytest.approx((expected, scale), rel=1e-3)
    ours = scipy.stats.weibull_min.logpdf(distances, found[0], scale=found[1]).sum()
    assert ours >= scipy.stats.weibull_min.logpdf(distances, expected, scale=scale).sum() - 1e-9


def test_weibull_follows_the_unit():
    distances = np.random.default_rng(0).random(20) + 1
    shape, scale = fit_weibull(distances)
    assert fit_weibull(1e-6 * distances) == pytest.approx((shape, 1e-6 * scale))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1e150), min_size=1, max_size=20))
def test_weibull_of_any_distances_is_finite(distances):
    shape, scale = fit_weibull(np.array(distances))
    assert SHAPES[0] <= shape <= SHAPES[1]
    assert 0 < scale < math.inf


def test_constant_distances_give_a_step():
    shape, scale = fit_weibull(np.full(5, 2.0))
    assert shape == SHAPES[1]
    assert scale == pytest.approx(2.0)
    assert scipy.stats.weibull_min.cdf([1.98, 2.02], shape, scale=scale) == pytest.approx([0, 1], abs=1e-4)


@pytest.mark.parametrize(
    ("num_known", "alpha", "tail"), [(4, 10, 20), (4, 2, 20), (12, 10, 20), (4, 1, 5), (4, 4, 1000)]
)
def test_scores_against_a_loop(num_known, alpha, tail):
    train, targets = make_outputs(400, num_known, seed=1)
    test, _ = make_outputs(40, num_known, seed=2, height=1.0, spread=2.0)
    rule = OpenMax(alpha=alpha, tail=tail)
    rule.fit(train, targets)
    logits, targets = train.logits.double().numpy(), targets.numpy()
    right = logits.argmax(axis=1) == targets
    assert 0.5 < right.mean() < 1
    models = []
    for label in range(num_known):
        own = logits[right & (targets == label)]
        mean = own.mean(axis=0)
        distances = np.sort([np.linalg.norm(row - mean) for row in own])[-tail:]
        models.append((mean, fit_weibull(distances)))
    top = min(alpha, num_known)
    knownness, labels = [], []
    for row in test.logits.double().numpy():
        revised, unknown = row.copy(), 0.0
        for rank, label in enumerate(np.argsort(-row)[:top], start=1):
            mean, (shape, scale) = models[label]
            outlier = scipy.stats.weibull_min.cdf(np.linalg.norm(row - mean), shape, scale=scale)
            weight = (top + 1 - rank) / top
            revised[label] = row[label] * (1 - weight * outlier)
            unknown += row[label] * weight * outlier
        probability = scipy.special.softmax([unknown, *revised])
        knownness.append(np.log(1 - probability[0]) - np.log(probability[0]))
        labels.append(revised.argmax())
    np.testing.assert_allclose(rule.scores(test).knownness, knownness, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(rule.scores(test).labels, labels)
    assert (rule.scores(test).labels != test.logits.argmax(1)).any() or alpha == 1


def test_an_image_scores_alike_alone_and_among_others():
    rule = fitted()
    test, _ = make_outputs(30, seed=2)
    alone = torch.cat([rule.scores(test[index : index + 1]).knownness for index in range(30)])
    torch.testing.assert_close(rule.scores(test).knownness, alone, rtol=1e-12, atol=1e-12)


def test_confident_images_stay_apart():
    rule = OpenMax()
    rule.fit(*make_outputs(400, height=200.0, seed=1))
    logits = 200 * torch.eye(4)[:1] + torch.tensor([[0.0], [0.1], [0.2], [0.3]])
    knownness = rule.scores(Outputs(logits=logits)).knownness
    assert len(set(knownness.tolist())) == 4  # P_0 is 0 to the last digit for all of them
    assert (knownness > 100).all()


def test_threshold_and_predict():
    rule = fitted(acceptance=0.9)
    validation, targets = make_outputs(501, seed=3)
    rule.set_threshold(validation, targets)
    predicted = rule.decide(rule.scores(validation))
    assert (predicted < 4).sum() == 451
    assert torch.equal(
        predicted, torch.where(rule.scores(validation).knownness < rule.threshold, 4, rule.scores(validation).labels)
    )


def test_outliers_are_less_known():
    rule = fitted()
    inlier = rule.means[0]
    outlier = inlier + torch.tensor([0.0, 6.0, 0.0, 0.0], dtype=torch.float64)
    knownness = rule.scores(Outputs(logits=torch.stack([inlier, outlier]))).knownness
    assert knownness[0] > knownness[1]


def test_class_without_a_correct_image_uses_all_of_its_images():
    outputs, targets = make_outputs(100)
    outputs.logits[:, 2] = -50 + torch.arange(100) / 10
    rule = OpenMax()
    rule.fit(outputs, targets)
    torch.testing.assert_close(rule.means[2], outputs.logits[targets == 2].double().mean(0))
    assert rule.usable.all()
    assert torch.isfinite(rule.scores(outputs).knownness).all()


def test_class_without_an_image_counts_as_infinitely_far():
    outputs, targets = make_outputs(100)
    kept = targets != 2
    rule = OpenMax()
    rule.fit(outputs[kept], targets[kept])
    assert (rule.outlier_probability(outputs.logits.double())[:, 2] == 1).all()
    assert torch.isfinite(rule.scores(outputs).knownness).all()


def test_one_image_a_class_and_one_class():
    rule = OpenMax()
    rule.fit(Outputs(logits=torch.tensor([[2.0, 0.0], [0.0, 2.0]])), torch.tensor([0, 1]))
    assert torch.isfinite(rule.scores(Outputs(logits=torch.tensor([[2.0, 0.0], [5.0, 5.0]]))).knownness).all()
    single = OpenMax()
    single.fit(Outputs(logits=torch.tensor([[1.0], [2.0]])), torch.tensor([0, 0]))
    assert torch.isfinite(single.scores(Outputs(logits=torch.tensor([[1.5], [9.0]]))).knownness).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.floats(allow_nan=False), min_size=3, max_size=3), min_size=6, max_size=6))
def test_any_logits_give_finite_scores(rows):
    outputs, targets = Outputs(logits=torch.tensor(rows, dtype=torch.float64)), torch.tensor([0, 1, 2, 0, 1, 0])
    rule = OpenMax(tail=2)
    rule.fit(outputs[:5], targets[:5])
    rule.set_threshold(outputs[:5], targets[:5])
    knownness = rule.scores(outputs).knownness
    assert torch.isfinite(knownness).all()
    assert torch.equal(rule.decide(rule.scores(outputs)) == 3, knownness < rule.threshold)


@pytest.mark.parametrize("setting", [{"tail": 0}, {"alpha": 1.5}, {"alpha": True}])
def test_impossible_settings_are_refused(setting):
    with pytest.raises(UserError, match=f"'openmax': {next(iter(setting))} must be a whole number"):
        OpenMax(**setting)


def test_missing_or_diverged_images_are_refused():
    outputs, targets = make_outputs(20)
    with pytest.raises(UserError, match="no known training image"):
        OpenMax().fit(outputs[:0], targets[:0])
    outputs.logits[3, 0] = math.nan
    with pytest.raises(UserError, match="'openmax'.*diverged"):
        OpenMax().fit(outputs, targets)
    with pytest.raises(UserError, match="'openmax'.*diverged"):
        fitted().set_threshold(outputs, targets)
