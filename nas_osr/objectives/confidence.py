"""Confidence-calibrated classifiers (Lee et al. 2018): classify known images, be undecided about others.

With U uniform over the K classes and P the classifier's softmax, averaged over a batch,

    L = CE(x, y) + beta KL(U || P(other)),   KL(U || P) = -1/K sum_k log P_k - log K

Where the other images come from is the setting `source`:

- gan: a generator that is trained along, to fool a discriminator and to leave the classifier undecided. Three
  players a step: the discriminator (binary cross-entropy, real and fake), the generator (-log D(fake) plus beta
  KL(U || P)), the classifier with its encoder (L on fresh fakes). The generator's adversarial term is the
  non-saturating one (the paper prints log(1 - D)), and the entropy H(P_G) is left out, as in the authors' code.
- pretrained_gan: an ordinary GAN, trained on the known images beforehand and then fixed.
- outliers: given images of other classes; they are not augmented.

Only known images enter the running statistics of the encoder's BatchNorm; others pass with their own batch's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_osr.configuration import check_choice
from nas_osr.data.batches import to_float
from nas_osr.data.dataset import LabelledImages
from nas_osr.data.protocols import Protocol
from nas_osr.objectives.adversaries import GAN_SETTINGS, AdversarialObjective, GANConfig
from nas_osr.objectives.base import Batch, Terms
from nas_osr.objectives.parts.freezing import unrecorded
from nas_osr.objectives.parts.gan import Discriminator, train_gan
from nas_osr.objectives.parts.pooling import pool, pooled_width
from nas_osr.option_docs import POSITIVE
from nas_osr.outputs import FeatureShapes, Outputs
from nas_osr.seeds import derive_seed

IMAGES_FROM = ("gan", "pretrained_gan", "outliers")


@dataclass(frozen=True)
class ConfidenceConfig(GANConfig):
    """Coefficients of the loss and sizes of the GAN; the defaults are the paper's, but for `gan_epochs`."""

    source: str = "gan"
    "where the images come from that the classifier shall be undecided about: gan, pretrained_gan, outliers."
    beta: Annotated[float, POSITIVE] = 0.1
    "weight of both divergences, greater than 0."
    gan_epochs: Annotated[int, POSITIVE] = 20
    "pretrained_gan: passes over the known training images."
    gan_batch_size: Annotated[int, POSITIVE] = 64
    "pretrained_gan: images a step."

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "source", IMAGES_FROM, where="confidence: ")

    @property
    def idle(self) -> dict[str, str]:
        trained_before = ("gan_epochs", "gan_batch_size")
        unread = {"gan": trained_before, "pretrained_gan": (), "outliers": (*trained_before, *GAN_SETTINGS)}
        return {**super().idle, **dict.fromkeys(unread[self.source], f"with source {self.source}")}


class Confidence(AdversarialObjective):
    """The confidence loss of a linear classifier on pooled features.

    Attributes:
        classifier: features [B, D] to logits [B, N].
        generator: of the images to be undecided about; None with given outliers.
        discriminator: the joint GAN's; None elsewhere.
        outliers: uint8 [n, C, H, W], what `set_outliers` was given; not part of the state.
    """

    name = "confidence"
    config_class = ConfidenceConfig
    provides = frozenset({"logits", "embedding"})
    default_rule = "msp"
    last_layer = "classifier"
    follows_length = False
    divisible = True
    config: ConfidenceConfig
    outliers: Tensor | None

    def build(self, shapes: FeatureShapes) -> None:
        self.classifier = nn.Linear(pooled_width(shapes), self.num_classes)
        self.make_gan(generator=self.config.source != "outliers", trained_along=self.config.source == "gan")
        self.register_buffer("outliers", None, persistent=False)

    @classmethod
    def defaults(cls, protocol: Protocol, phase: str) -> dict[str, Any]:
        """The paper's beta for a protocol."""
        return {"svhn": {"beta": 1.0}}.get(protocol.source, {})

    @classmethod
    def needs_outliers(cls, config: ConfidenceConfig) -> bool:
        return config.source == "outliers"

    def set_outliers(self, images: Tensor) -> None:
        """The images to be undecided about, uint8 [n, C, H, W], n at least 1. UserError when they come from a GAN."""
        if not self.needs_outliers(self.config):
            super().set_outliers(images)
        if images.dtype != torch.uint8 or images.shape[1:] != self.image_shape or not len(images):
            raise ValueError(f"outliers must be uint8 [n, {self.image_shape}], got {images.dtype} {list(images.shape)}")
        self.outliers = images.to(self.classifier.weight.device)

    def prepare(self, images: LabelledImages, seed: int) -> dict[str, float]:
        """pretrained_gan: train the GAN, and return the mean of its losses over the last epoch. Else nothing.

        Torch's global random state is left as it was. Raises UserError when the GAN diverges.
        """
        if self.config.source != "pretrained_gan":
            return {}
        assert self.generator is not None
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(seed, "gan"))
            discriminator = Discriminator(self.image_shape, self.config.gan_width)
            return train_gan(
                self.generator,
                discriminator.to(self.classifier.weight.device),
                images,
                epochs=self.config.gan_epochs,
                batch_size=self.config.gan_batch_size,
                learning_rate=self.config.gan_learning_rate,
                seed=seed,
            )

    def forward(self, encoder: nn.Module, images: Tensor) -> Outputs:
        embedding = pool(encoder(images))
        return Outputs(logits=self.classifier(embedding).float(), embedding=embedding)

    def classify(self, encoder: nn.Module, images: Tensor) -> Tensor:
        """Logits float32 [B, N] of images [B, C, H, W] in [0, 1]."""
        return self.classifier(pool(encoder(images))).float()

    def other_images(self, count: int) -> Tensor:
        """Fresh images to be undecided about, float32 [count, C, H, W] in [0, 1], without a gradient."""
        if self.generator is not None:
            return self.fakes(count)
        if self.outliers is None:
            raise RuntimeError("set_outliers comes before losses")
        outliers = self.outliers
        chosen = self.draw(lambda count: torch.randint(len(outliers), (count,), device=outliers.device), count)
        return to_float(outliers[chosen])

    def losses(self, encoder: nn.Module, batch: Batch, player: str = "main", progress: float | Tensor = 1.0) -> Terms:
        """The terms of one player, weighted.

        main: `ce`, `kl`; discriminator: `discriminator_real`, `discriminator_fake`; generator:
        `generator_adversarial`, `generator_kl`.
        """
        images, labels = batch
        if player != "main":
            return self.adversary_terms(player, encoder, images)
        terms = {"ce": F.cross_entropy(self.classify(encoder, images), labels)}
        with unrecorded(encoder):
            return terms | self.undecided(encoder, self.other_images(len(images)))

    def undecided(self, encoder: nn.Module, images: Tensor) -> Terms:
        """Term `kl`."""
        return {"kl": self.config.beta * divergence_from_uniform(self.classify(encoder, images))}


def divergence_from_uniform(logits: Tensor) -> Tensor:
    """Mean of KL(U || P) = -1/K sum_k log P_k - log K with P the softmax of logits [B, K]; a scalar, at least 0."""
    return -F.log_softmax(logits, dim=1).mean() - math.log(logits.shape[1])
