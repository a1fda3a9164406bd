"""Adversarial reciprocal points (ARPL, Chen et al. 2021): each class k has a point P_k for all that it is not.

With f the m features of an image and y its class,

    d_k = d_e(f, P_k) - f . P_k,   d_e(f, P) = ||f - P||^2 / m
    L = -log softmax(d / t)_y + lambda max(0, d_e(f, P_y) - R + margin)

An image is of the class whose reciprocal point it is farthest from, and is the more known the larger that d_k is: d are
the logits, and the paper's score is the rule `mls`. The second term keeps known features within the learned radius R of
their points, so that what is unknown stays between all of them. The paper prints it without a margin, the authors' code
has 1. As R is learned and unbounded, this only moves its start, from 0 to -1.

Confusing samples (ARPL+CS): a generator, trained along to fool a discriminator, makes images that are equally far from
all points, and the network learns to find them so. With S the softmax of d_e(f, P) and U uniform over N classes, both
minimise

    beta / N KL(S || U)

which is the paper's -beta / N H(S) up to a constant; the authors' code has beta exp(-H(S)), which near U has the same
gradient. There, each epoch is followed by one without fakes, and fakes have BatchNorm layers of their own (ABN). Here
they have batch statistics of their own, which are not recorded, but share the factors: layers are the encoder's, which
an objective only calls.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_osr.objectives.adversaries import GAN_SETTINGS, AdversarialObjective, GANConfig
from nas_osr.objectives.base import Batch, Terms
from nas_osr.objectives.parts.freezing import unrecorded
from nas_osr.objectives.parts.pooling import pool, pooled_width
from nas_osr.option_docs import NOT_NEGATIVE, POSITIVE
from nas_osr.outputs import FeatureShapes, Outputs

INITIAL_STD = 0.1  # of the points, as the authors start


@dataclass(frozen=True)
class ARPLConfig(GANConfig):
    """Coefficients of the loss; the defaults are the paper's."""

    margin_weight: Annotated[float, NOT_NEGATIVE] = 0.1
    "lambda, the weight of the radius's term; 0 is off."
    margin: Annotated[float, NOT_NEGATIVE] = 0.0
    "what a distance to the own point must stay below the radius by; 1 in the authors' code."
    temperature: Annotated[float, POSITIVE] = 1.0
    "t, that the cross-entropy divides distances by."
    confusing_samples: bool = False
    "train a generator of confusing images along (ARPL+CS); images of 32x32 or 64x64."
    beta: Annotated[float, POSITIVE] = 0.1
    "weight of what is asked of confusing images."

    @property
    def idle(self) -> dict[str, str]:
        found = super().idle
        if not self.confusing_samples:
            found |= dict.fromkeys(("beta", *GAN_SETTINGS), "without confusing_samples")
        if self.margin_weight == 0:
            found["margin"] = "with margin_weight 0"
        return found


class ARPL(AdversarialObjective):
    """Reciprocal points on pooled features.

    Attributes:
        points: [N, D], P.
        radius: [], R.
    """

    name = "arpl"
    config_class = ARPLConfig
    provides = frozenset({"logits", "embedding"})
    default_rule = "mls"
    follows_length = False
    divisible = True
    capturable = True
    config: ARPLConfig

    def build(self, shapes: FeatureShapes) -> None:
        self.points = nn.Parameter(INITIAL_STD * torch.randn(self.num_classes, pooled_width(shapes)))
        self.radius = nn.Parameter(torch.zeros(()))
        wanted = self.config.confusing_samples
        self.make_gan(generator=wanted, trained_along=wanted)

    def forward(self, encoder: nn.Module, images: Tensor) -> Outputs:
        """Inference; logits are d. images: [B, C, H, W] in [0, 1]."""
        embedding = pool(encoder(images))
        distances, dots = compare_points(embedding, self.points)
        return Outputs(logits=distances - dots, embedding=embedding)

    def losses(self, encoder: nn.Module, batch: Batch, player: str = "main", progress: float | Tensor = 1.0) -> Terms:
        """The terms of one player, weighted; a term without weight is left out.

        main: `ce`, `margin`, and with confusing samples `confusion`; for the others see `adversary_terms`.
        """
        images, labels = batch
        config = self.config
        if player != "main":
            return self.adversary_terms(player, encoder, images)
        distances, dots = compare_points(pool(encoder(images)), self.points)
        terms = {"ce": F.cross_entropy((distances - dots) / config.temperature, labels)}
        if config.margin_weight > 0:
            beyond = distances.gather(1, labels[:, None]) - self.radius + config.margin
            terms["margin"] = config.margin_weight * F.relu(beyond).mean()
        if not config.confusing_samples:
            return terms
        with unrecorded(encoder):
            return terms | self.undecided(encoder, self.fakes(len(images)))

    def undecided(self, encoder: nn.Module, images: Tensor) -> Terms:
        """Term `confusion`, beta / N KL(S || U)."""
        distances, _ = compare_points(pool(encoder(images)), self.points)
        return {"confusion": self.config.beta / self.num_classes * divergence_to_uniform(distances)}


def compare_points(features: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """d_e and f . P, each float32 [B, N], of features [B, D] and points [N, D], under autocast too."""
    features, points = features.float(), points.float()
    distances = (features[:, None, :] - points).square().mean(dim=2)
    with torch.autocast(features.device.type, enabled=False):
        return distances, features @ points.T


def divergence_to_uniform(logits: Tensor) -> Tensor:
    """Mean of KL(S || U) = log N - H(S) with S the softmax of logits [B, N]; a scalar, at least 0."""
    log_p = F.log_softmax(logits, dim=1)
    return (log_p.exp() * log_p).sum(dim=1).mean() + math.log(logits.shape[1])
