"""The GAN: shapes and sizes, losses against torch's own, and who leaves a trace in whom."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_osr.data.dataset import LabelledImages
from nas_osr.errors import UserError
from nas_osr.objectives.parts.gan import (
    Discriminator,
    Generator,
    adversarial_term,
    discriminator_terms,
    make_adam,
    train_gan,
)

SHAPE = (1, 32, 32)


@pytest.fixture
def networks() -> tuple[Generator, Discriminator]:
    torch.manual_seed(0)
    return Generator(SHAPE, latent_dim=5, width=4), Discriminator(SHAPE, width=4)


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def unchanged(module: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("side", "steps"), [(32, [4, 2, 1]), (64, [8, 4, 2, 1])])
def test_shapes_ranges_and_sizes(channels: int, side: int, steps: list[int]) -> None:
    """The published widths: 4x4 kernels between nz = 100, multiples of ngf = ndf = 64, and the image."""
    generator, discriminator = Generator((channels, side, side)), Discriminator((channels, side, side))
    images = generator(generator.noise(3))
    assert images.shape == (3, channels, side, side) and images.dtype == torch.float32
    assert 0.0 < float(images.detach().min()) and float(images.detach().max()) < 1.0
    assert discriminator(images).shape == (3,)
    widths = [64 * step for step in steps]
    kernels = sum(a * b * 16 for a, b in zip([100, *widths], [*widths, channels], strict=True))
    norms = 2 * sum(widths)
    assert sum(p.numel() for p in generator.parameters()) == kernels + norms + channels
    kernels = sum(a * b * 16 for a, b in zip([1, *widths], [*widths, channels], strict=True))
    norms = 2 * sum(widths[:-1])  # none at the image
    assert sum(p.numel() for p in discriminator.parameters()) == kernels + norms + 64 + 1


def test_weights_start_small_and_maps_double() -> None:
    torch.manual_seed(0)
    generator = Generator((3, 32, 32), width=64)
    for layer in generator.modules():
        if isinstance(layer, nn.ConvTranspose2d):
            assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
        elif isinstance(layer, nn.BatchNorm2d):
            assert abs(float(layer.weight.detach().mean()) - 1.0) < 0.01 and not layer.bias.detach().any()
    sides = []
    hooks = [
        layer.register_forward_hook(lambda _, __, output: sides.append(output.shape[-1]))
        for layer in generator.modules()
        if isinstance(layer, nn.ConvTranspose2d)
    ]
    generator(generator.noise(2))
    assert sides == [4, 8, 16, 32] and len(hooks) == 4


@pytest.mark.parametrize("shape", [(3, 48, 48), (3, 32, 64), (1, 16, 16)])
def test_other_sizes_are_refused(shape: tuple[int, int, int]) -> None:
    for make in (Generator, Discriminator):
        with pytest.raises(UserError, match=f"32x32 or 64x64 pixels, not {shape[1]}x{shape[2]}"):
            make(shape)


def test_terms_are_binary_cross_entropies(networks: tuple[Generator, Discriminator]) -> None:
    generator, discriminator = networks
    images, fakes = torch.rand(6, *SHAPE), generator(generator.noise(6))
    oracle = copy.deepcopy(discriminator)
    real, fake = torch.sigmoid(oracle(images)), torch.sigmoid(oracle(fakes.detach()))
    again = torch.sigmoid(copy.deepcopy(discriminator)(fakes))
    terms = discriminator_terms(discriminator, images, fakes)
    torch.testing.assert_close(terms["discriminator_real"], F.binary_cross_entropy(real, torch.ones(6)))
    torch.testing.assert_close(terms["discriminator_fake"], F.binary_cross_entropy(fake, torch.zeros(6)))
    term = adversarial_term(discriminator, fakes)
    torch.testing.assert_close(term, F.binary_cross_entropy(again, torch.ones(6)))
    # real and fake batches each had their own statistics, and only the discriminator's own step recorded them
    assert {*terms} == {"discriminator_real", "discriminator_fake"}
    for value, expected in zip(discriminator.buffers(), oracle.buffers(), strict=True):
        torch.testing.assert_close(value, expected)
    assert int(next(b for name, b in discriminator.named_buffers() if name.endswith("tracked"))) == 2


def test_each_step_leaves_gradients_in_its_own_network_only(networks: tuple[Generator, Discriminator]) -> None:
    generator, discriminator = networks
    fakes = generator(generator.noise(4))
    torch.stack([*discriminator_terms(discriminator, torch.rand(4, *SHAPE), fakes).values()]).sum().backward()
    assert all(p.grad is None for p in generator.parameters())
    assert all(p.grad is not None and p.grad.any() for p in discriminator.parameters())
    discriminator.zero_grad()
    adversarial_term(discriminator, fakes).backward()
    assert all(p.grad is None and p.requires_grad for p in discriminator.parameters())
    assert all(p.grad is not None and p.grad.any() for p in generator.parameters())


def test_fixed_samples_leave_no_trace(networks: tuple[Generator, Discriminator]) -> None:
    generator, _ = networks
    before = state(generator)
    torch.manual_seed(3)
    fixed = generator.fixed(generator.noise(4))
    assert not fixed.requires_grad and unchanged(generator, before)
    torch.manual_seed(3)
    sample = generator(generator.noise(4))
    assert torch.equal(sample, fixed) and sample.requires_grad and not unchanged(generator, before)


def grey_images(count: int, value: int) -> LabelledImages:
    images = torch.full((count, *SHAPE), value, dtype=torch.uint8)
    return LabelledImages(images, torch.zeros(count, dtype=torch.long), torch.zeros(count, dtype=torch.long))


def train(data: LabelledImages, **settings: float) -> tuple[Generator, dict[str, float]]:
    torch.manual_seed(0)
    generator = Generator(SHAPE, latent_dim=5, width=4)
    chosen = {"epochs": 10, "batch_size": 8, "learning_rate": 2e-3, "seed": 1, **settings}
    return generator, train_gan(generator, Discriminator(SHAPE, width=4), data, **chosen)  # type: ignore[arg-type]


def test_training_moves_the_fakes_to_the_images() -> None:
    means = {}
    for value in (20, 235):
        generator, figures = train(grey_images(35, value), epochs=15, learning_rate=5e-3)
        assert {*figures} == {"discriminator_real", "discriminator_fake", "generator_adversarial"}
        assert all(parameter.grad is None for parameter in generator.parameters())
        means[value] = float(generator.fixed(generator.noise(8)).mean())
    assert means[20] < 0.4 and means[235] > 0.6, means


def test_training_is_repeatable_and_the_seed_orders_the_images() -> None:
    data = grey_images(20, 0)
    data.images[:] = torch.arange(20, dtype=torch.uint8).view(-1, 1, 1, 1) * 12
    first, again, other = (state(train(data, epochs=1, seed=seed)[0]) for seed in (1, 1, 2))
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not all(torch.equal(value, other[name]) for name, value in first.items())


def test_fewer_images_than_a_batch_and_divergence() -> None:
    assert train(grey_images(3, 9), epochs=1)[1]["discriminator_real"] > 0
    with pytest.raises(UserError, match="the GAN diverged: lower its learning rate"):
        train(grey_images(8, 9), epochs=3, learning_rate=1e30)


def test_adam_has_the_betas_of_the_paper() -> None:
    optimizer = make_adam([nn.Parameter(torch.zeros(1))], 2e-4)
    assert isinstance(optimizer, torch.optim.Adam)
    assert optimizer.defaults["lr"] == 2e-4 and optimizer.defaults["betas"] == (0.5, 0.999)
