"""The VAE contrastive objective against torch.distributions and hand-written loops."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from nas_osr.data.protocols import make_protocol
from nas_osr.errors import UserError
from nas_osr.objectives import resolve_objective_config
from nas_osr.objectives.vae_contrastive import VAEContrastive, VAEContrastiveConfig
from nas_osr.outputs import Features, FeatureShapes

SHAPES = FeatureShapes({2: (16, 2, 2)}, {-1: (2, 16, 16), 0: (4, 8, 8), 1: (8, 4, 4), 2: (16, 2, 2)})
STD = (0.2, 0.3, 0.4)
CONFIG = VAEContrastiveConfig(temperature=6.0, pixel_std=STD)


class FixedEncoder(nn.Module):
    """Maps that depend on the images in a simple way."""

    def forward(self, images: Tensor) -> Features:
        def map_(shape: tuple[int, int, int]) -> Tensor:
            pooled = F.adaptive_avg_pool2d(images, shape[1:]).mean(1, keepdim=True)
            return pooled * torch.linspace(-2, 2, shape[0]).view(1, -1, 1, 1)

        return Features(*({scale: map_(shape) for scale, shape in shapes.items()} for shapes in SHAPES[:2]))


def make(config: VAEContrastiveConfig = CONFIG, classes: int = 3) -> VAEContrastive:
    torch.manual_seed(0)
    return VAEContrastive(SHAPES, (3, 32, 32), classes, config)


def batch(classes: int = 3, count: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, 3, 32, 32, generator=generator)
    return images, torch.randint(0, classes, (count,), generator=generator)


@pytest.mark.parametrize(
    ("settings", "weight"),
    [({}, 200.0), ({"variant": "paper"}, 1.0), ({"variant": "paper", "reconstruction_weight": 7.0}, 7.0)],
)
def test_losses_equal_their_definitions(settings: dict[str, Any], weight: float) -> None:
    """Each term against torch.distributions, one image and one class at a time."""
    objective = make(dataclasses.replace(CONFIG, **settings)).eval()
    encoder = FixedEncoder()
    images, labels = batch()
    torch.manual_seed(7)
    terms = objective.losses(encoder, (images, labels), progress=0.25)  # half of the warm-up is done: beta = .5

    mean, variance = objective.encode(encoder(images))
    torch.manual_seed(7)
    sample = mean + variance.sqrt() * torch.randn_like(mean)
    posterior = Normal(mean, variance.sqrt())
    kl_class = kl_instance = ce = reconstruction = contrastive = 0.0
    for i, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        h = objective.class_mean.weight[label]
        single = Normal(posterior.mean[i], posterior.stddev[i])
        divergence = kl_divergence(single, Normal(torch.cat([h, torch.zeros(10)]), 1.0))
        kl_class += divergence[:32].sum() / len(images)
        kl_instance += divergence[32:].sum() / len(images)
        ce += -objective.classifier(sample[i, :32]).log_softmax(0)[label] / len(images)

        def error(u: Tensor, i: int = i, image: Tensor = image) -> Tensor:
            decoded = objective.decode(u[None], sample[i : i + 1, 32:], encoder(images[i : i + 1]))[0]
            return (((decoded - image) / torch.tensor(STD).view(3, 1, 1)) ** 2).mean()

        reconstruction += error(sample[i, :32]) / len(images)
        errors = torch.stack([error(objective.class_mean.weight[j]) for j in range(3)])
        contrastive += -(-6.0 * errors).log_softmax(0)[label] / len(images)
    expected = {
        "ce": 30 * ce,
        "kl_class": 0.5 * kl_class,
        "kl_instance": 0.5 * kl_instance,
        "reconstruction": weight * reconstruction,
        "contrastive": contrastive,
    }
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], torch.as_tensor(value), rtol=1e-4, atol=1e-5, msg=name)


def test_class_attribute_changes_the_reconstruction_and_counterfactuals_differ() -> None:
    objective = make().eval()
    images, _ = batch()
    features = FixedEncoder()(images)
    z = torch.randn(len(images), 10)
    u = torch.randn(len(images), 32)
    one, other = objective.decode(u, z, features), objective.decode(u + 1.0, z, features)
    assert (one - other).abs().amax(dim=(1, 2, 3)).min() > 1e-4
    assert (one - objective.decode(u, z + 1.0, features)).abs().amax(dim=(1, 2, 3)).min() > 1e-4

    means = objective.class_mean.weight
    decoded = [objective.decode(means[j].expand(len(images), -1), z, features) for j in range(3)]
    for j in range(3):
        for k in range(j):
            assert (decoded[j] - decoded[k]).abs().amax(dim=(1, 2, 3)).min() > 1e-4
    together = objective.counterfactuals(z, features).view(3, *images.shape)
    for j in range(3):
        torch.testing.assert_close(together[j], decoded[j])


def test_images_are_judged_by_the_means_of_u_where_they_are_known() -> None:
    """The errors, the counterfactual images and the reconstruction, one image and one class at a time."""
    objective, encoder, (images, _) = make().eval(), FixedEncoder(), batch()
    features = encoder(images)
    u, z = objective.encode(features)[0].split([32, 10], dim=1)
    means = torch.randn(3, 32)
    before = objective(encoder, images).class_reconstruction_error
    objective.take_class_means(means.double(), torch.tensor([True, False, True]))
    used = [means[0], objective.class_mean.weight[1], means[2]]
    errors = objective(encoder, images).class_reconstruction_error
    drawn = objective.redraw(encoder, images)
    assert not torch.equal(errors[:, 0], before[:, 0])
    torch.testing.assert_close(errors[:, 1], before[:, 1])
    for i in range(len(images)):
        own = objective.decode(u[i : i + 1], z[i : i + 1], features)[0]
        torch.testing.assert_close(objective.reconstruct(encoder, images)[i], own)
        for j in range(3):
            decoded = objective.decode(used[j][None], z[i : i + 1], features)[0]
            torch.testing.assert_close(drawn[j, i], decoded)
            error = (((decoded - images[i]) / torch.tensor(STD).view(3, 1, 1)) ** 2).mean()
            torch.testing.assert_close(errors[i, j], error)


def test_the_means_of_u_are_saved_and_older_states_do_without() -> None:
    objective = make()
    objective.take_class_means(torch.randn(3, 32), torch.ones(3, dtype=torch.bool))
    state = objective.state_dict()
    other = make()
    other.load_state_dict(state)
    assert torch.equal(other.mean_attribute, objective.mean_attribute) and other.measured.all()
    older = {name: value for name, value in state.items() if name not in ("mean_attribute", "measured")}
    other.load_state_dict(older)
    assert not other.measured.any()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("std", [STD, None])
def test_errors_of_pixels_are_means_of_squares_in_units_of_the_standard_deviation(layout, std) -> None:
    """Values and gradients, against float64 and one channel after another."""
    objective = make(dataclasses.replace(CONFIG, pixel_std=std))
    images = batch(count=4)[0].to(memory_format=layout)
    decoded = torch.rand(3 * 4, 3, 32, 32).to(memory_format=layout).requires_grad_()
    weight = torch.rand(3, 4)
    errors = objective.pixel_error(decoded, images)
    (gradient,) = torch.autograd.grad((errors * weight).sum(), decoded)

    exact = decoded.detach().double().requires_grad_()
    expected = torch.zeros(3, 4, dtype=torch.float64)
    for channel, scale in enumerate(std or (1.0, 1.0, 1.0)):
        difference = exact[:, channel].reshape(3, 4, 32 * 32) - images[:, channel].double().reshape(4, 32 * 32)
        expected = expected + (difference / scale).square().mean(2) / 3
    (expected_gradient,) = torch.autograd.grad((expected * weight).sum(), exact)
    torch.testing.assert_close(errors.double(), expected, rtol=1e-5, atol=0.0)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=1e-4, atol=1e-9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(objective.pixel_error(decoded, images), errors)


def test_reconstruction_ignores_the_image_unless_decoder_features_are_on() -> None:
    """Without them only the latents carry information to the decoder."""
    images, _ = batch()
    u, z = torch.randn(5, 32), torch.randn(5, 10)
    for bypass in (False, True):
        objective = make(dataclasses.replace(CONFIG, decoder_features=bypass)).eval()
        one = objective.decode(u, z, FixedEncoder()(images))
        other = objective.decode(u, z, FixedEncoder()(images.flip(0)))
        assert torch.equal(one, other) != bypass


def test_forward_fills_what_it_promises() -> None:
    objective = make().eval()
    outputs = objective(FixedEncoder(), batch()[0])
    assert outputs.available() == VAEContrastive.provides
    assert outputs.latent_variance is not None and outputs.latent_variance.min() > 0
    assert outputs.logits is not None and outputs.logits.shape == (5, 3)


def test_no_counterfactual_is_decoded_without_its_weight() -> None:
    objective = make(dataclasses.replace(CONFIG, contrastive_weight=0.0))
    seen = []
    objective.decoder.stages[1].register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    terms = objective.losses(FixedEncoder(), batch())
    assert "contrastive" not in terms and seen == [5]


@settings(max_examples=15, deadline=None)
@given(magnitude=st.floats(1e-3, 1e6), count=st.integers(1, 4), label=st.integers(0, 2))
def test_losses_are_finite_for_finite_features(magnitude: float, count: int, label: int) -> None:
    """One class in the batch and huge features included."""
    objective = make().eval()

    def encoder(images: Tensor) -> Features:
        branches, intermediate, _ = FixedEncoder()(images)
        return Features(*({k: v * magnitude for k, v in maps.items()} for maps in (branches, intermediate)))

    images = batch(count=count)[0]
    terms = objective.losses(encoder, (images, torch.full((count,), label)))  # type: ignore[arg-type]
    assert all(torch.isfinite(value) for value in terms.values()), terms


def test_paper_coefficients() -> None:
    cifar, svhn = make_protocol("cifar10"), make_protocol("svhn")
    paper = {"variant": "paper"}
    search = resolve_objective_config("vae_contrastive", {}, cifar, "search")
    assert (search.temperature, search.ce_weight, search.contrastive_weight, search.kl_weight) == (6.0, 30.0, 1.0, 1.0)
    retrain = resolve_objective_config("vae_contrastive", {"temperature": 3, **paper}, cifar, "retrain")
    assert (retrain.temperature, retrain.kl_weight, retrain.instance_kl_weight) == (3.0, 0.5, 3.0)
    assert resolve_objective_config("vae_contrastive", {}, svhn, "retrain").ce_weight == 60.0
    mnist = make_protocol("mnist")
    assert resolve_objective_config("vae_contrastive", {}, mnist, "search").temperature == 10.0
    weights = resolve_objective_config("vae_contrastive", paper, mnist, "retrain")
    assert (weights.ce_weight, weights.instance_kl_weight, weights.contrastive_weight) == (60.0, 1.0, 1.0)
    assert weights.image_weight == 1.0


def test_weights_at_which_the_decoder_works() -> None:
    def weights(protocol: str, **settings: Any) -> tuple[float, float]:
        config = resolve_objective_config("vae_contrastive", settings, make_protocol(protocol), "retrain")
        return config.image_weight, config.instance_kl_weight

    assert (weights("cifar10"), weights("digits")) == ((20.0, 0.1), (50.0, 0.1))
    assert weights("digits", instance_kl_weight=3.0, reconstruction_weight=7) == (7.0, 3.0)
    assert weights("cifar10", variant="paper", reconstruction_weight=7) == (7.0, 3.0)
    # as config.yaml of an earlier version has it
    assert weights("cifar10", variant="working", reconstruction_weight=None, instance_kl_weight=3.0) == (200.0, 3.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ce_wieght": 1.0}, "no setting 'ce_wieght'"),
        ({"ce_weight": "high"}, "ce_weight must be a finite number"),
        ({"ce_weight": -1.0}, "ce_weight must not be negative"),
        ({"variant": "code"}, "variant must be one of working, paper, got 'code'"),
        ({"reconstruction_weight": -1.0}, "reconstruction_weight must not be negative"),
        ({"class_dim": 0}, "class_dim must be greater than 0"),
        ({"decoder_features": 1}, "decoder_features must be true or false"),
    ],
)
def test_wrong_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_objective_config("vae_contrastive", settings, make_protocol("cifar10"), "search")
