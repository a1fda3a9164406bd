"""An objective with a GAN that is trained along: a generator whose images the network is to be undecided about.

A weight step has three players: the discriminator, the generator, which fools it and leaves the network undecided, and
the network itself, with fresh fakes. Only known images enter the running statistics of BatchNorm.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated

import torch
from torch import Tensor, nn

from nas_osr.objectives.base import Objective, Terms
from nas_osr.objectives.parts.freezing import frozen
from nas_osr.objectives.parts.gan import Discriminator, Generator, adversarial_term, discriminator_terms, make_adam
from nas_osr.objectives.parts.side_tasks import ObjectiveConfig
from nas_osr.option_docs import POSITIVE


@dataclass(frozen=True)
class GANConfig(ObjectiveConfig):
    """Sizes of the GAN, where there is one."""

    gan_latent: Annotated[int, POSITIVE] = 100
    "dimensions of the generator's noise."
    gan_width: Annotated[int, POSITIVE] = 64
    "channels of both GAN networks next to the image."
    gan_learning_rate: Annotated[float, POSITIVE] = 2e-4
    "of both GAN networks' Adam."


GAN_SETTINGS = tuple(item.name for item in fields(GANConfig) if item.name.startswith("gan_"))


class AdversarialObjective(Objective):
    """An objective whose network may learn from a generator's images. Subclasses implement `undecided`.

    Attributes:
        generator: None where no image is generated.
        discriminator: None where no GAN is trained along.
    """

    config: GANConfig
    generator: Generator | None
    discriminator: Discriminator | None

    def make_gan(self, *, generator: bool, trained_along: bool) -> None:
        """Make what is wanted of it, for `build`. UserError when images have a size that it cannot make."""
        latent, width = self.config.gan_latent, self.config.gan_width
        self.generator = Generator(self.image_shape, latent, width) if generator else None
        self.discriminator = Discriminator(self.image_shape, width) if trained_along else None
        if trained_along:
            self.players = ("discriminator", "generator", "main")

    def player_parameters(self, player: str) -> list[nn.Parameter]:
        """`main` has what is no part of a GAN; a fixed generator has no player."""
        parts = {name: getattr(self, name) for name in ("generator", "discriminator")}
        own = {name: list(part.parameters()) for name, part in parts.items() if part is not None}
        if player != "main":
            return own[player]
        adversaries = {id(parameter) for parameters in own.values() for parameter in parameters}
        return [parameter for parameter in self.parameters() if id(parameter) not in adversaries]

    def make_optimizer(self, player: str, parameters: list[nn.Parameter]) -> torch.optim.Optimizer | None:
        """Adam for both networks of the GAN; the main one is left open."""
        return None if player == "main" else make_adam(parameters, self.config.gan_learning_rate)

    def fakes(self, count: int) -> Tensor:
        """Fresh images of the generator, float32 [count, C, H, W] in [0, 1], without a gradient."""
        assert self.generator is not None
        return self.generator.fixed(self.draw(self.generator.noise, count))

    def undecided(self, encoder: nn.Module, images: Tensor) -> Terms:
        """The weighted term that makes the network undecided about images [B, C, H, W], and the generator find them."""
        raise NotImplementedError

    def adversary_terms(self, player: str, encoder: nn.Module, images: Tensor) -> Terms:
        """The terms of `discriminator` or `generator`; images [B, C, H, W] are the known ones.

        discriminator: `discriminator_real`, `discriminator_fake`; generator: `generator_adversarial`, and `undecided`'s
        as `generator_NAME`.
        """
        assert self.generator is not None and self.discriminator is not None
        if player == "discriminator":
            return discriminator_terms(self.discriminator, images, self.fakes(len(images)))
        fakes = self.generator(self.draw(self.generator.noise, len(images)))
        # the gradient passes through encoder and heads to the fakes, and leaves nothing in them
        with frozen(encoder, [*encoder.parameters(), *self.player_parameters("main")]):
            terms = self.undecided(encoder, fakes)
        return {
            "generator_adversarial": adversarial_term(self.discriminator, fakes),
            **{f"generator_{name}": value for name, value in terms.items()},
        }
