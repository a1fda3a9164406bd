"""CAP against mpmath, scipy and the literal two-stage test."""

import math

import mpmath
import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_osr.errors import UserError
from nas_osr.evaluation.judging import judge
from nas_osr.outputs import Outputs
from nas_osr.scoring.cap import CAP
from nas_osr.scoring.class_gaussians import VARIANCE_FLOOR, log_minus_log_erf


def make_outputs(size, num_known=3, dimensions=4, seed=0, spread=1.0):
    """Outputs of a made-up network over clustered latents, and the targets."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(size) % num_known
    latents = 3 * torch.eye(num_known, dimensions)[targets] + spread * torch.randn(
        size, dimensions, generator=generator
    )
    logits = torch.nn.functional.one_hot(targets, num_known) + 0.7 * torch.randn(size, num_known, generator=generator)
    errors = torch.rand(size, num_known, generator=generator) * spread
    return Outputs(logits=logits, latent_mean=latents, class_reconstruction_error=errors), targets


def fitted_rule(acceptance=0.95, stage_two="gaussian", combine="second"):
    rule = CAP(acceptance, stage_two, combine)
    rule.fit(*make_outputs(300, seed=1))
    rule.set_threshold(*make_outputs(200, seed=2))
    return rule


def single(latents, mean=0.0, variance=1.0):
    """Scores [B] by eq. 5 of latents [B, D] under one class Gaussian."""
    latents = torch.as_tensor(latents, dtype=torch.float64)
    rule = CAP(stage_two="eq5")
    rule.means = torch.full((1, latents.shape[1]), mean, dtype=torch.float64)
    rule.whiten = torch.eye(latents.shape[1], dtype=torch.float64)[None] / math.sqrt(variance)
    rule.volumes = torch.zeros(1, dtype=torch.float64)
    rule.usable = torch.tensor([True])
    return rule.class_fits(Outputs(latent_mean=latents)).flatten()


def exact_log_minus_log_erf(distance):
    with mpmath.workdps(60 + int(distance * distance / 4)):
        tail = mpmath.erfc(mpmath.mpf(distance) / mpmath.sqrt(2))
        return float(mpmath.log(-mpmath.log1p(-tail)))


def test_probability_in_low_dimension():
    generator = np.random.default_rng(0)
    latents = generator.normal(size=(50, 3))
    factors = scipy.special.erf(np.abs(latents - 0.5) / np.sqrt(2 * 4.0))
    probability = 1 - factors.prod(axis=1)
    scores = single(latents, mean=0.5, variance=4.0).numpy()
    np.testing.assert_allclose(-np.expm1(-np.exp(scores)), probability, rtol=1e-12)


def test_reference_form_where_it_does_not_underflow():
    latents = np.random.default_rng(1).normal(size=(50, 32))
    a = math.log(2) + scipy.special.log_ndtr(-np.abs(latents))
    expected = np.log(-np.log1p(-np.exp(a)).sum(axis=1))
    np.testing.assert_allclose(single(latents), expected, rtol=1e-10)


def test_logsumexp_form_where_the_sum_underflows():
    latents = 40 + 10 * np.random.default_rng(2).random((20, 32))  # exp(a) < 1e-340
    a = math.log(2) + scipy.special.log_ndtr(-latents)
    np.testing.assert_allclose(single(latents), scipy.special.logsumexp(a, axis=1), rtol=1e-13)


@pytest.mark.parametrize("centre", [1e-12, 1e-3, 0.5, 0.5 * math.sqrt(2), 1.0, 5.0, 7 * math.sqrt(2), 12.0, 38.0, 60.0])
def test_one_dimension_against_mpmath(centre):
    distances = (centre * (1 + np.linspace(-1e-3, 1e-3, 5))).tolist()
    found = log_minus_log_erf(torch.tensor(distances, dtype=torch.float64)).tolist()
    assert found == pytest.approx([exact_log_minus_log_erf(distance) for distance in distances], rel=1e-14, abs=1e-14)


def test_class_mean_scores_highest_and_is_finite():
    scores = single([[0.0] * 32, [0.0] + [1.0] * 31, [1e-8] + [1.0] * 31, [1.0] * 32])
    assert torch.isfinite(scores).all()
    assert scores.tolist() == sorted(scores.tolist(), reverse=True)
    assert len(set(scores.tolist())) == 4


def test_rank_keeps_resolution_where_the_probability_saturates():
    # every P_m here rounds to 1 in float32 and most in float64
    latents = torch.linspace(0.2, 0.3, 100, dtype=torch.float64)[:, None].expand(100, 32)
    scores = single(latents)
    assert (scores.diff() < 0).all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=6), st.data())
def test_a_step_away_from_the_mean_never_raises_the_score(distances, data):
    which = data.draw(st.integers(0, len(distances) - 1))
    farther = list(distances)
    farther[which] *= data.draw(st.floats(1, 100))
    near, far = single([distances, farther]).tolist()
    assert far <= near + 1e-14 * max(1.0, abs(near))


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 50), st.floats(1e-6, 1))
def test_one_dimension_decreases_strictly(distance, step):
    near, far = log_minus_log_erf(torch.tensor([distance, distance + step], dtype=torch.float64)).tolist()
    assert far < near


@pytest.mark.parametrize("stage_two", ["gaussian", "diagonal"])
def test_gaussians_are_those_of_the_correct_images(stage_two):
    outputs, targets = make_outputs(300)
    rule = CAP(stage_two=stage_two)
    rule.fit(outputs, targets)
    right = (outputs.logits.argmax(1) == targets).numpy()
    assert 0.5 < right.mean() < 1
    for label in range(3):
        own = outputs.latent_mean.double().numpy()[right & (targets == label).numpy()]
        np.testing.assert_allclose(rule.means[label], own.mean(axis=0))
        covariance = np.cov(own.T, bias=True)
        if stage_two == "diagonal":
            covariance = np.diag(own.var(axis=0))
        density = scipy.stats.multivariate_normal(own.mean(axis=0), covariance).logpdf(outputs.latent_mean.double())
        np.testing.assert_allclose(rule.class_fits(outputs)[:, label], density, rtol=1e-9)


def test_relative_is_a_ratio_of_densities():
    outputs, targets = make_outputs(300)
    rule = CAP(stage_two="relative")
    rule.fit(outputs, targets)
    right, latents = outputs.logits.argmax(1) == targets, outputs.latent_mean.double().numpy()
    used, labels = latents[right], targets[right].numpy()

    def log_density(points):
        covariance = np.cov(points.T, bias=True)
        return scipy.stats.multivariate_normal(points.mean(axis=0), covariance).logpdf(latents)

    for label in range(3):
        expected = log_density(used[labels == label]) - log_density(used)
        np.testing.assert_allclose(rule.class_fits(outputs)[:, label], expected, rtol=1e-9, atol=1e-9)


def test_relative_needs_two_classes():
    with pytest.raises(UserError, match="relative needs at least two known classes"):
        CAP(stage_two="relative").fit(*make_outputs(30, num_known=1))


def test_full_covariance_sees_what_a_diagonal_one_does_not():
    # u lies on a line in two dimensions; off it, but near the mean in each dimension
    line = torch.linspace(-3, 3, 100)[:, None] * torch.tensor([[1.0, 1.0]])
    noise = 0.1 * torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    known = Outputs(logits=torch.ones(100, 1), latent_mean=line + noise)
    asked = Outputs(latent_mean=torch.tensor([[2.0, 2.0], [1.0, -1.0]]))
    for stage_two, on_line_is_nearer in (("gaussian", True), ("diagonal", False), ("eq5", False)):
        rule = CAP(stage_two=stage_two)
        rule.fit(known, torch.zeros(100, dtype=torch.int64))
        on_line, off_line = rule.class_fits(asked)[:, 0].tolist()
        assert (on_line > off_line) == on_line_is_nearer, stage_two


def test_eq5_does_not_abate_where_the_density_does():
    """An unknown 1,000 sigma away in one dimension: nothing to eq. 5 while another coordinate is at the mean."""
    known, targets = make_outputs(300, num_known=1, dimensions=8)
    rules = {stage_two: CAP(stage_two=stage_two) for stage_two in ("gaussian", "eq5")}
    far = known.latent_mean[:50].clone()
    far[:, 3] += 1000.0
    for stage_two, rule in rules.items():
        rule.fit(known, targets)
        fits = rule.class_fits(Outputs(latent_mean=torch.cat([known.latent_mean[:50], far])))[:, 0]
        assert (bool(fits[:50].min() > fits[50:].max())) == (stage_two == "gaussian")


def test_fewer_images_than_dimensions_and_constant_dimensions_have_a_density():
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(10, 32, generator=generator)
    latents[:, 5] = 1.0
    outputs = Outputs(logits=torch.ones(10, 1), latent_mean=latents)
    rule = CAP()
    rule.fit(outputs, torch.zeros(10, dtype=torch.int64))
    known = rule.class_fits(outputs)
    assert torch.isfinite(known).all()
    strange = rule.class_fits(Outputs(latent_mean=torch.randn(10, 32, generator=generator)))
    assert strange.max() < known.min()


def test_the_objective_is_told_the_class_means():
    class Decoding:
        def take_class_means(self, means, measured):
            self.told = means, measured

    outputs, targets = make_outputs(300)
    kept, objective, rule = targets != 1, Decoding(), CAP()
    rule.fit(outputs[kept], targets[kept], objective)
    means, measured = objective.told
    assert torch.equal(means, rule.means) and measured.tolist() == [True, False, True]


def test_class_without_a_correct_image_uses_all_of_its_images():
    outputs, targets = make_outputs(30)
    outputs.logits[:, 0] = -100.0
    rule = CAP()
    rule.fit(outputs, targets)
    torch.testing.assert_close(rule.means[0], outputs.latent_mean[targets == 0].double().mean(0))
    assert rule.usable.all()


def test_class_without_any_image_never_accepts():
    outputs, targets = make_outputs(300)
    kept = targets != 1
    rule = CAP()
    rule.fit(outputs[kept], targets[kept])
    scores = rule.class_fits(outputs)
    assert (scores[:, 1] == -math.inf).all()
    assert torch.isfinite(scores[:, [0, 2]]).all()
    rule.set_threshold(outputs[kept], targets[kept])
    assert (rule.decide(rule.scores(outputs))[kept] < 3).float().mean() > 0.85
    outputs.latent_mean[targets == 1] += 20  # far from both other classes, in every dimension
    assert (rule.decide(rule.scores(outputs))[targets == 1] == 3).all()


def test_variance_has_a_floor():
    outputs, targets = make_outputs(2, num_known=2)
    rule = CAP()
    rule.fit(outputs, targets)
    diagonal = rule.whiten.square().sum(dim=(1, 2)) / 4
    torch.testing.assert_close(diagonal, torch.full((2,), 1 / VARIANCE_FLOOR, dtype=torch.float64))
    assert torch.isfinite(rule.class_fits(outputs)).all()


def test_strange_settings_are_refused():
    with pytest.raises(UserError, match="stage_two must be one of gaussian, diagonal, relative, eq5, got 'full'"):
        CAP(stage_two="full")
    with pytest.raises(UserError, match=r"'cap': combine must be one of second, stages, got 'first'"):
        CAP(combine="first")


@pytest.mark.parametrize("combine", ["stages", "second"])
@pytest.mark.parametrize("acceptance", [0.5, 0.9, 0.95])
def test_predict_is_the_two_stage_decision(acceptance, combine):
    rule = fitted_rule(acceptance, "eq5", combine)
    validation, _ = make_outputs(200, seed=2)
    test, _ = make_outputs(2000, seed=3, spread=1.5)

    def two_stages(outputs):
        errors = outputs.class_reconstruction_error.double().numpy().min(axis=1)
        deviations = rule.whiten.diagonal(dim1=1, dim2=2)
        distances = (outputs.latent_mean.double()[:, None] - rule.means).abs() * deviations
        a = math.log(2) + scipy.special.log_ndtr(-distances.numpy())
        return errors, np.log(-np.log1p(-np.exp(a)).sum(axis=2)).max(axis=1)

    def squash(score):
        return np.where(score >= 0, 1 + score, 1 / (1 - np.minimum(score, 0)))

    known_errors, known_scores = two_stages(validation)
    errors, scores = two_stages(test)
    fails_first = errors > np.quantile(known_errors, acceptance)
    fails_second = squash(scores) < np.quantile(squash(known_scores), 1 - acceptance)
    assert 0 < fails_first.mean() < 1
    assert (fails_second & ~fails_first).any()
    expected = np.where(fails_first | fails_second, 3, test.logits.argmax(1).numpy())
    np.testing.assert_array_equal(rule.decide(rule.scores(test)).numpy(), expected)

    # one score: failures of stage one below all others and by -error, the others by stage two
    knownness = rule.scores(test).knownness.numpy()
    assert knownness[fails_first].max() < 0 <= knownness[~fails_first].min()
    np.testing.assert_array_equal(np.argsort(knownness[fails_first]), np.argsort(-errors[fails_first]))
    np.testing.assert_allclose(knownness[~fails_first], squash(scores)[~fails_first], rtol=1e-9)

    # what ranks: that score, or stage two alone
    ranking = rule.scores(test).ranking.numpy()
    np.testing.assert_allclose(ranking, knownness if combine == "stages" else squash(scores), rtol=1e-9)
    np.testing.assert_array_equal(judge(rule, test).knownness, ranking)
    np.testing.assert_array_equal(judge(rule, test).predicted_label, expected)


def test_both_stages_accept_their_share_of_validation():
    rule = fitted_rule()
    validation, _ = make_outputs(200, seed=2)
    passes_first = validation.class_reconstruction_error.amin(1).double() <= rule.error_threshold
    assert passes_first.double().mean() == 0.95
    accepted = (rule.decide(rule.scores(validation)) < 3).double().mean()
    assert 0.9 <= accepted <= 0.95


finite = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(finite, min_size=2, max_size=2), min_size=4, max_size=4),
    st.lists(st.floats(0, 1e300), min_size=4, max_size=4),
)
def test_finite_inputs_give_finite_knownness(latents, errors):
    outputs = Outputs(
        logits=torch.eye(2).repeat(2, 1),
        latent_mean=torch.tensor(latents, dtype=torch.float64),
        class_reconstruction_error=torch.tensor(errors, dtype=torch.float64)[:, None].expand(4, 2),
    )
    rule = CAP()
    rule.fit(outputs, torch.tensor([0, 1, 0, 1]))
    rule.set_threshold(outputs[:2], torch.tensor([0, 1]))
    assert torch.isfinite(rule.scores(outputs).knownness).all()
    assert ((rule.decide(rule.scores(outputs)) == 2) == (rule.scores(outputs).knownness < rule.threshold)).all()


def test_diverged_or_missing_validation_images_are_refused():
    rule = fitted_rule()
    outputs, targets = make_outputs(10)
    outputs.latent_mean[3, 0] = math.nan
    with pytest.raises(UserError, match=r"'cap'.*diverged"):
        rule.set_threshold(outputs, targets)
    with pytest.raises(UserError, match="no known validation image"):
        rule.set_threshold(outputs[:0], targets[:0])
