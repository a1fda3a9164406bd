"""The GMVAE loss against a slow version of its own, torch.distributions, SciPy and finite differences."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from nas_osr.data.protocols import make_protocol
from nas_osr.errors import UserError
from nas_osr.objectives import make_objective, resolve_objective_config
from nas_osr.objectives.gmvae import GMVAE, SCALE_RANGE, VARIANCE_FLOOR, GMVAEConfig, split_moments
from nas_osr.outputs import Features, FeatureShapes
from nas_osr.scoring.centroids import NCDistance

SHAPES = FeatureShapes({2: (16, 1, 1)}, {})
COUNTS = (2, 1, 3)


class Pooled(nn.Module):
    """Maps that depend on the images in a simple way."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, images: Tensor) -> Features:
        blocks = F.adaptive_avg_pool2d(images, 4).mean(1).flatten(1)[:, :, None, None]
        return Features({2: self.factor * (blocks - 0.5)}, {})


def make(channels: int = 1, classes: int = 3, **values: Any) -> GMVAE:
    torch.manual_seed(0)
    config = GMVAEConfig(**{"latent_dim": 4, "prior_dim": 3, "hidden": 8, **values})
    return GMVAE(SHAPES, (channels, 16, 16), classes, config)


def batch(channels: int = 1, count: int = 6) -> tuple[Tensor, Tensor]:
    images = torch.rand(count, channels, 16, 16, generator=torch.Generator().manual_seed(1))
    images[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    return images, torch.arange(count) % 3


def moments(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation from a layer's output for one image."""
    half = len(raw) // 2
    return raw[:half], (torch.log1p(torch.exp(raw[half:])) + VARIANCE_FLOOR).sqrt()


@pytest.mark.parametrize(("channels", "reconstruction"), [(1, "bernoulli"), (3, "truncated_gaussian")])
@torch.no_grad()
def test_losses_equal_a_slow_version(channels: int, reconstruction: str) -> None:
    """One image and one subcluster at a time, in float64."""
    objective = make(channels, subclusters=COUNTS, reconstruction=reconstruction, v_prior=True).double().eval()
    images, labels = batch(channels)
    images = images.double()
    torch.manual_seed(7)
    terms = objective.losses(Pooled(), (images, labels))
    torch.manual_seed(7)
    noise_z, noise_w = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)

    expected = dict.fromkeys(terms, 0.0)
    for i, label in enumerate(labels.tolist()):
        flat = Pooled()(images[i : i + 1]).branches[2].flatten()
        z_mean, z_std = moments(objective.to_latent(flat))
        one_hot = torch.tensor([float(label == j) for j in range(3)], dtype=torch.float64)
        w_mean, w_std = moments(objective.to_prior_input(torch.cat([flat, one_hot])))
        z, w = z_mean + z_std * noise_z[i], w_mean + w_std * noise_w[i]
        expected["kl_w"] += float(kl_divergence(Normal(w_mean, w_std), Normal(0.0, 1.0)).sum())

        rows = objective.prior(w).view(sum(COUNTS), 8)
        first = sum(COUNTS[:label])
        log_p = [
            float(Normal(*moments(rows[first + j])).log_prob(z).sum()) for j in range(COUNTS[label])
        ]  # of each subcluster of the image's class
        largest = max(log_p)
        shares = [math.exp(value - largest) for value in log_p]
        r = [share / sum(shares) for share in shares]
        log_q = float(Normal(z_mean, z_std).log_prob(z).sum())
        expected["covering"] += log_q - sum(a * b for a, b in zip(r, log_p, strict=True))
        expected["v_prior"] += sum(a * math.log(a * COUNTS[label]) for a in r if a > 0)

        decoded = objective.decoder(z[None], {})[0].detach()
        if reconstruction == "bernoulli":
            x = images[i]
            expected["reconstruction"] -= float((x * decoded.log() + (1 - x) * (1 - decoded).log()).sum())
        else:
            s, m = float(objective.pixel_scale()), decoded.numpy()
            log_density = stats.truncnorm.logpdf(images[i].numpy(), -m / s, (1 - m) / s, loc=m, scale=s)
            expected["reconstruction"] -= float(log_density.sum())
    for name, value in expected.items():
        assert float(terms[name]) == pytest.approx(value / 6, rel=1e-6), name  # log pi is float32


@torch.no_grad()
def test_one_subcluster_is_a_plain_divergence() -> None:
    """With a prior that ignores w, the mean of many covering terms is KL(q(z|x) || the class's Gaussian)."""
    objective = make().eval()
    with torch.no_grad():
        objective.prior[2].weight.zero_()
    images, _ = batch(count=1)
    count = 3000
    torch.manual_seed(0)
    terms = objective.losses(Pooled(), (images.expand(count, -1, -1, -1), torch.full((count,), 2)))
    mean, variance = objective.encode(Pooled()(images))
    prior_mean, prior_variance = split_moments(objective.prior[2].bias.view(3, 8)[2])
    posterior, prior = Normal(mean[0], variance[0].sqrt()), Normal(prior_mean, prior_variance.sqrt())
    draws = posterior.sample((count,))
    error = float((posterior.log_prob(draws) - prior.log_prob(draws)).sum(1).std()) / math.sqrt(count)
    assert float(terms["covering"]) == pytest.approx(float(kl_divergence(posterior, prior).sum()), abs=4 * error)
    assert "v_prior" not in terms


def test_covering_and_v_prior_together_are_the_mixture() -> None:
    """log q(z|x) - log sum_j pi_j N_j is what both terms leave when r is the exact posterior."""
    objective = make(subclusters=3, v_prior=True).double().eval()
    images, labels = batch()[0].double(), batch()[1]
    torch.manual_seed(3)
    terms = objective.losses(Pooled(), (images, labels))
    torch.manual_seed(3)
    features = Pooled()(images)
    mean, variance = objective.encode(features)
    z = mean + variance.sqrt() * torch.randn_like(mean)
    w_mean, w_variance = objective.encode_prior_input(features, labels)
    means, variances = objective.subcluster_priors(w_mean + w_variance.sqrt() * torch.randn_like(w_mean), labels)
    mixture = MixtureSameFamily(Categorical(torch.ones(6, 3).double()), Independent(Normal(means, variances.sqrt()), 1))
    expected = (Normal(mean, variance.sqrt()).log_prob(z).sum(1) - mixture.log_prob(z)).mean()
    torch.testing.assert_close(terms["covering"] + terms["v_prior"], expected)


@torch.no_grad()
def test_the_class_term_is_the_cross_entropy_of_the_mixtures_under_the_prior() -> None:
    """Against torch.distributions; w comes from N(0, I), or the prior net could tell the class by it."""
    objective = make(subclusters=COUNTS, class_weight=2.5).double().eval()
    images, labels = batch()[0].double(), batch()[1]
    torch.manual_seed(3)
    terms = objective.losses(Pooled(), (images, labels))
    torch.manual_seed(3)
    mean, variance = objective.encode(Pooled()(images))
    z = mean + variance.sqrt() * torch.randn_like(mean)
    torch.randn(6, 3, dtype=torch.float64)  # of q(w|x,y)
    rows = objective.prior(torch.randn(6, 3, dtype=torch.float64)).view(6, sum(COUNTS), 8)
    log_p, first = [], 0
    for count in COUNTS:
        means, variances = split_moments(rows[:, first : first + count])
        parts = Independent(Normal(means, variances.sqrt()), 1)
        log_p.append(MixtureSameFamily(Categorical(torch.ones(6, count).double()), parts).log_prob(z))
        first += count
    expected = -2.5 * Categorical(logits=torch.stack(log_p, dim=1)).log_prob(labels).mean()
    torch.testing.assert_close(terms["class"], expected, rtol=1e-6, atol=1e-6)  # log pi is float32
    plain = make(subclusters=COUNTS).double().eval()
    torch.manual_seed(3)
    without = plain.losses(Pooled(), (images, labels))
    assert "class" not in without and torch.equal(without["covering"], terms["covering"])


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.0), (0.1, 0.25), (0.4, 1.0), (1.0, 1.0)])
@torch.no_grad()
def test_covering_rises_in_its_warm_up(progress: float, share: float) -> None:
    plain, warm = make().eval(), make(covering_warmup=0.4).eval()
    found = []
    for objective, where in ((plain, progress), (warm, progress), (warm, torch.tensor(progress, dtype=torch.float64))):
        torch.manual_seed(1)
        found.append(objective.losses(Pooled(), batch(), progress=where))
    for terms in found[1:]:
        torch.testing.assert_close(terms["covering"], share * found[0]["covering"])
        assert terms["covering"].dtype == torch.float32
        assert all(torch.equal(terms[name], found[0][name]) for name in ("kl_w", "reconstruction"))
    assert GMVAE.follows(warm.config) and not GMVAE.follows(plain.config)  # a longer training is another one


@pytest.mark.parametrize("reconstruction", ["bernoulli", "truncated_gaussian"])
def test_gradient_by_finite_differences(reconstruction: str) -> None:
    objective = make(3, subclusters=COUNTS, reconstruction=reconstruction, v_prior=True, class_weight=1.0)
    objective.double().train()
    images, labels = batch(3)
    data = images.double(), labels
    parameters = list(objective.parameters())

    def loss() -> Tensor:
        torch.manual_seed(5)
        return torch.stack(list(objective.losses(Pooled(), data).values())).sum()

    gradients = torch.autograd.grad(loss(), parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        direction = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        step = 1e-6 * direction / direction.norm()
        with torch.no_grad():
            parameter += step
            above = float(loss())
            parameter -= 2 * step
            below = float(loss())
            parameter += step
        assert (above - below) / 2 == pytest.approx(float((gradient * step).sum()), rel=1e-3, abs=2e-9)


@settings(max_examples=15)
@given(
    magnitude=st.floats(1e-3, 1e8),
    pixels=st.sampled_from([0.0, 1.0, 0.5]),
    count=st.integers(1, 3),
    reconstruction=st.sampled_from(["bernoulli", "truncated_gaussian"]),
)
def test_losses_and_gradients_are_finite(magnitude: float, pixels: float, count: int, reconstruction: str) -> None:
    """Black and white images, one class in the batch, huge features and missing subclusters included."""
    objective = make(3, subclusters=COUNTS, reconstruction=reconstruction, v_prior=True, class_weight=1.0).eval()
    images = torch.full((count, 3, 16, 16), pixels)
    images[:, :, :8] = 1.0 - pixels
    terms = objective.losses(Pooled(magnitude), (images, torch.full((count,), 1)))
    gradients = torch.autograd.grad(torch.stack(list(terms.values())).sum(), list(objective.parameters()))
    assert all(bool(value.isfinite().all()) for value in (*terms.values(), *gradients))


def test_vanishing_variances_are_finite() -> None:
    objective = make(subclusters=2, v_prior=True)
    with torch.no_grad():
        objective.to_latent.bias[4:] = -1e4
        objective.prior[2].bias.view(6, 2, 4)[:, 1] = -1e4
        objective.to_prior_input[2].bias[3:] = -1e4
    terms = objective.losses(Pooled(), batch())
    gradients = torch.autograd.grad(torch.stack(list(terms.values())).sum(), list(objective.parameters()))
    assert all(bool(value.isfinite().all()) for value in (*terms.values(), *gradients))


def test_densities_keep_float32_under_bf16_autocast() -> None:
    objective = make(3, subclusters=2, reconstruction="truncated_gaussian").eval()
    torch.manual_seed(1)
    full = objective.losses(Pooled(), batch(3))
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = objective.losses(Pooled(), batch(3))
        outputs = objective(Pooled(), batch(3)[0])
    assert all(value.dtype == torch.float32 for value in mixed.values())
    assert outputs.latent_mean is not None and outputs.latent_mean.dtype == torch.float32
    assert torch.equal(mixed["covering"], full["covering"]) and torch.equal(mixed["kl_w"], full["kl_w"])
    torch.testing.assert_close(mixed["reconstruction"], full["reconstruction"], rtol=0.02, atol=1.0)


def test_an_architecture_step_gets_its_gradient() -> None:
    """No weight takes a gradient there; what the features depend on does."""
    objective = make(subclusters=2).requires_grad_(False)
    alpha = torch.ones((), requires_grad=True)

    def encoder(images: Tensor) -> Features:
        return Features({2: alpha * Pooled()(images).branches[2]}, {})

    terms = objective.losses(encoder, batch())  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad(torch.stack(list(terms.values())).sum(), [alpha])
    assert gradient.isfinite() and gradient != 0


def test_forward_fills_what_it_promises_without_labels() -> None:
    objective = make().eval()
    outputs = objective(Pooled(), batch()[0])
    assert outputs.available() == GMVAE.provides
    assert outputs.latent_mean is not None and outputs.latent_mean.shape == (6, 4)
    assert outputs.latent_variance is not None and outputs.latent_variance.min() > 0
    assert torch.equal(outputs.latent_mean, objective(Pooled(), batch()[0]).embedding)  # no sample in it


def test_the_label_reaches_w_and_the_prior() -> None:
    objective = make(subclusters=COUNTS).eval()
    features = Pooled()(batch()[0])
    one, other = torch.zeros(6, dtype=torch.int64), torch.ones(6, dtype=torch.int64)
    for first, second in zip(
        objective.encode_prior_input(features, one), objective.encode_prior_input(features, other), strict=True
    ):
        assert (first - second).abs().min() > 0
    w = torch.zeros(1, 3)
    means = [objective.subcluster_priors(w, torch.tensor([label]))[0][0, :count] for label, count in enumerate(COUNTS)]
    every = torch.cat(means)
    assert every.shape == (6, 4)
    assert torch.pdist(every).min() > 0.5  # they start apart, or one would take every image


def test_pixel_scale_is_learned_within_bounds_or_fixed() -> None:
    learned = make(3, reconstruction="truncated_gaussian")
    assert learned.raw_scale is not None
    for raw in (-1e4, 0.0, 1e4):
        learned.raw_scale.data.fill_(raw)
        assert SCALE_RANGE[0] - 1e-6 <= float(learned.pixel_scale()) <= SCALE_RANGE[1] + 1e-6
    fixed = make(3, reconstruction="truncated_gaussian", pixel_scale=0.2)
    assert fixed.raw_scale is None and fixed.pixel_scale() == 0.2
    assert make().raw_scale is None


@pytest.mark.parametrize(
    ("name", "known", "latent_dim", "reconstruction", "subclusters"),
    [
        ("fashion-mnist", [0, 1, 2, 3, 4, 6], 10, "bernoulli", None),
        ("cifar10", [0, 1, 2, 3, 4, 5], 50, "truncated_gaussian", None),
        ("mnist", [[0, 2], [1, 3]], 5, "bernoulli", (2, 2)),
        ("cifar10", [["cat", "dog"], ["automobile", "truck"]], 20, "truncated_gaussian", (2, 2)),
    ],
)
def test_defaults_of_the_four_experiments(
    name: str, known: list[Any], latent_dim: int, reconstruction: str, subclusters: Any
) -> None:
    config = resolve_objective_config("gmvae", {}, make_protocol(name, known=known), "retrain")
    assert (config.latent_dim, config.reconstruction, config.v_prior) == (latent_dim, reconstruction, False)
    assert config.subclusters == subclusters
    assert make_objective("gmvae", SHAPES, (1, 16, 16), 2, config).loss_scale == 256.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"subclusters": 0}, "subclusters must be greater than 0"),
        ({"subclusters": [1, 0]}, "subclusters must be greater than 0, got 0"),
        ({"subclusters": []}, "subclusters must be a whole number"),
        ({"subclusters": "2"}, "subclusters must be a whole number"),
        ({"subclusters": True}, "subclusters"),
        ({"reconstruction": "laplace"}, "bernoulli, truncated_gaussian"),
        ({"pixel_scale": -0.1}, "pixel_scale must not be negative"),
        ({"covering_warmup": 1.5}, "covering_warmup must lie in"),
        ({"latent_dim": 0}, "latent_dim must be greater than 0"),
        ({"decoder_channels": 8}, "decoder_channels must be 0 or at least 16"),
    ],
)
def test_wrong_settings_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_objective_config("gmvae", values, make_protocol("digits"), "retrain")


def test_subclusters_of_another_number_of_classes_are_refused() -> None:
    with pytest.raises(UserError, match="lists 3 classes, there are 2"):
        make(classes=2, subclusters=COUNTS)


@pytest.mark.parametrize(
    ("own", "setting", "classes"),
    [(COUNTS, None, [0, 0, 1, 2, 2, 2]), (2, None, [0, 0, 1, 1, 2, 2]), (None, None, [0, 1, 2]), (3, 1, [0, 1, 2])],
)
def test_the_default_rule_looks_for_the_same_subclusters(own: Any, setting: Any, classes: list[int]) -> None:
    objective = make(subclusters=own).eval()
    images, labels = batch(count=30)
    rule = NCDistance(subclusters=setting)
    with torch.no_grad():
        rule.fit(objective(Pooled(), images), labels, objective)
    assert rule.classes is not None and rule.classes.tolist() == classes
