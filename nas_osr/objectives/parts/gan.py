"""A deep convolutional GAN (Radford et al. 2016) for images in [0, 1], its losses, and its training by itself.

Both networks double or halve the side with 4x4 convolutions of stride 2 between a 4x4 grid and the image, with ReLU and
BatchNorm in the generator, LeakyReLU and BatchNorm in the discriminator (not at the image). Weights start at N(0, .02).
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_osr.data.batches import iterate_batches, to_float
from nas_osr.data.dataset import LabelledImages
from nas_osr.data.sources.base import Shape
from nas_osr.errors import UserError
from nas_osr.objectives.parts.decoder import SLOPE
from nas_osr.objectives.parts.freezing import frozen, unrecorded
from nas_osr.seeds import make_generator

GRID = 4  # side of the smallest maps
BETAS = (0.5, 0.999)  # of both networks' Adam
INITIAL_STD = 0.02


class Generator(nn.Module):
    """Standard normal noise of `latent_dim` dimensions to images (C, S, S), S being 32 or 64; UserError on other sizes.

    `width` is the number of channels at half the image's side, doubled at each coarser one.
    """

    def __init__(self, image_shape: Shape, latent_dim: int = 100, width: int = 64) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        channels = [width * 2**step for step in reversed(range(count_doublings(image_shape)))]
        layers: list[nn.Module] = [nn.ConvTranspose2d(latent_dim, channels[0], GRID, bias=False)]
        for inner, outer in pairwise(channels):
            layers += [nn.BatchNorm2d(inner), nn.ReLU(inplace=True)]
            layers += [nn.ConvTranspose2d(inner, outer, 4, stride=2, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        layers += [nn.ConvTranspose2d(width, image_shape[0], 4, stride=2, padding=1)]
        self.layers = nn.Sequential(*layers)
        initialise(self)

    def forward(self, noise: Tensor) -> Tensor:
        """[B, latent_dim] -> images float32 [B, C, S, S] in [0, 1]."""
        return torch.sigmoid(self.layers(noise[:, :, None, None]).float())

    def noise(self, count: int) -> Tensor:
        """Fresh noise [count, latent_dim] of torch's global generator."""
        return torch.randn(count, self.latent_dim, device=next(self.parameters()).device)

    def fixed(self, noise: Tensor) -> Tensor:
        """As `forward`, without a gradient and without a trace in the running statistics."""
        with torch.no_grad(), unrecorded(self):
            return self(noise)


class Discriminator(nn.Module):
    """Images to the logit that they are real; their sizes and `width` are those of `Generator`."""

    def __init__(self, image_shape: Shape, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(image_shape[0], width, 4, stride=2, padding=1)]
        for _ in range(count_doublings(image_shape) - 1):
            layers += [nn.LeakyReLU(SLOPE, inplace=True)]
            layers += [nn.Conv2d(width, 2 * width, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(2 * width)]
            width *= 2
        layers += [nn.LeakyReLU(SLOPE, inplace=True), nn.Conv2d(width, 1, GRID)]
        self.layers = nn.Sequential(*layers)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, S, S] in [0, 1] -> logits float32 [B]."""
        return self.layers(images).float().flatten()


def count_doublings(image_shape: Shape) -> int:
    """How often the smallest maps' side doubles up to the image's: 3 or 4. UserError on images of another size."""
    _, height, width = image_shape
    if height != width or height not in (32, 64):
        raise UserError(f"the GAN makes images of 32x32 or 64x64 pixels, not {height}x{width}: resize the images")
    return (height // GRID).bit_length() - 1


def initialise(network: nn.Module) -> None:
    """Convolutions from N(0, .02) without bias, BatchNorm factors from N(1, .02)."""
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(layer.weight, 0.0, INITIAL_STD)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, INITIAL_STD)


def discriminator_terms(discriminator: Discriminator, images: Tensor, fakes: Tensor) -> dict[str, Tensor]:
    """Binary cross-entropy of real images [B, C, S, S] in [0, 1] against 1, and of as many fakes against 0, by name.

    Each is a mean over its own batch. The two batches pass one after the other, each with its own BatchNorm statistics;
    fakes get no gradient.
    """
    return {
        "discriminator_real": F.softplus(-discriminator(images)).mean(),
        "discriminator_fake": F.softplus(discriminator(fakes.detach())).mean(),
    }


def adversarial_term(discriminator: Discriminator, fakes: Tensor) -> Tensor:
    """-log D(fake), a mean: the generator's non-saturating loss. The gradient reaches the fakes only.

    The discriminator's running statistics stay as they are.
    """
    with frozen(discriminator, discriminator.parameters()):
        return F.softplus(-discriminator(fakes)).mean()


def make_adam(parameters: list[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    """The optimiser of either network."""
    return torch.optim.Adam(parameters, lr=learning_rate, betas=BETAS, fused=True)


def train_gan(
    generator: Generator,
    discriminator: Discriminator,
    data: LabelledImages,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> dict[str, float]:
    """Train both networks in turns, the discriminator first, on the images as they are.

    Noise comes from torch's global generator: seed it and wrap the call in `torch.random.fork_rng`.

    Args:
        data: on the networks' device.
        epochs: passes over the data, at least 1.
        seed: decides the order of the images.

    Returns:
        The mean of each loss term over the last epoch.

    Raises:
        UserError: a loss is not finite.
    """
    players = {
        "discriminator": make_adam(list(discriminator.parameters()), learning_rate),
        "generator": make_adam(list(generator.parameters()), learning_rate),
    }
    generator.train()
    discriminator.train()
    steps: list[dict[str, Tensor]] = []
    for epoch in range(epochs):
        steps = []
        order = make_generator(seed, "order", epoch)
        drop_last = len(data) >= batch_size
        for batch, _ in iterate_batches(data, batch_size, generator=order, drop_last=drop_last):
            images = to_float(batch)
            terms = discriminator_terms(discriminator, images, generator.fixed(generator.noise(len(images))))
            update(players["discriminator"], terms)
            fakes = generator(generator.noise(len(images)))
            adversarial = {"generator_adversarial": adversarial_term(discriminator, fakes)}
            update(players["generator"], adversarial)
            steps.append({name: value.detach() for name, value in (terms | adversarial).items()})
    for optimizer in players.values():
        optimizer.zero_grad(set_to_none=True)
    means = {name: float(torch.stack([step[name] for step in steps]).mean()) for name in steps[0]}
    if not all(value - value == 0.0 for value in means.values()):
        raise UserError("training the GAN diverged: lower its learning rate, gan_learning_rate")
    return means


def update(optimizer: torch.optim.Optimizer, terms: dict[str, Tensor]) -> None:
    """One step down the sum of the terms."""
    optimizer.zero_grad(set_to_none=True)
    torch.stack(list(terms.values())).sum().backward()
    optimizer.step()
