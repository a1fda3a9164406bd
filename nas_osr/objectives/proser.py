"""Placeholders (PROSER, Zhou et al. 2021): classifiers that stand for no class, and mixed images that belong to them.

Let z = W f be the logits of N classes, p = max_j w_j f the largest of C further classifiers, and z' = [z, p], of N + 1
columns. With y the image's class and z' \\ y without its column,

    L = CE(z', y) + beta CE(z' \\ y, N+1) + gamma CE(z'(mixed), N+1)

The first two put p behind the own class, and before all others: a boundary for each class. Mixed images are l
of one and 1 - l of another, of another class, in the middle of the network (manifold mixup), l from Beta(alpha,
alpha): `nas_osr.objectives.parts.cutting` says where that is. Half of a batch is mixed. Mixed images pass BatchNorm
with their own statistics, which are not recorded.

At inference logits are counted from p, so that the largest is the margin by which an image is known: the paper's score,
by the rule `mls`, whose threshold is the paper's bias on p (95 % of known validation images are known). Softmax and
labels are as without.

The authors train a classifier first, and then all terms for a sixth as many epochs at a hundredth of the learning rate.
Here, in one training, `warmup` is the share of it with CE(z, y) alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_osr.objectives.base import Batch, Objective, Terms
from nas_osr.objectives.parts.cutting import find_middle, mix_with, mixed_at
from nas_osr.objectives.parts.freezing import unrecorded
from nas_osr.objectives.parts.gradmix import random_mates
from nas_osr.objectives.parts.pooling import pool, pooled_width
from nas_osr.objectives.parts.side_tasks import ObjectiveConfig
from nas_osr.option_docs import NOT_NEGATIVE, POSITIVE, Range
from nas_osr.outputs import FeatureShapes, Outputs


@dataclass(frozen=True)
class PROSERConfig(ObjectiveConfig):
    """Coefficients of the loss; the defaults are the authors', but for `warmup`."""

    placeholders: Annotated[int, POSITIVE] = 1
    "C, how many classifiers stand for no class; the largest of their logits counts."
    placeholder_weight: Annotated[float, NOT_NEGATIVE] = 1.0
    "beta, of the term that puts the placeholder second; 0 is off."
    mixed_weight: Annotated[float, NOT_NEGATIVE] = 0.01
    "gamma, of the term on mixed images; 0 is off."
    mix_alpha: Annotated[float, POSITIVE] = 1.0
    "alpha of the Beta distribution of how much is mixed."
    warmup: Annotated[float, Range(0, 1, below=True)] = 0.0
    "share of the training before there are placeholders, from 0 to less than 1; the authors' is six sevenths."

    @property
    def idle(self) -> dict[str, str]:
        return {**super().idle, **({} if self.mixed_weight else {"mix_alpha": "with mixed_weight 0"})}


class PROSER(Objective):
    """A linear classifier with placeholders on pooled features.

    Attributes:
        classifier: features [B, D] to z [B, N].
        placeholder: features [B, D] to [B, C].
        middle: the name of the encoder's module behind which images are mixed, "" for the images themselves; None
            before `attach`.
    """

    name = "proser"
    config_class = PROSERConfig
    provides = frozenset({"logits", "embedding"})
    default_rule = "mls"
    config: PROSERConfig
    middle: str | None = None

    def build(self, shapes: FeatureShapes) -> None:
        width = pooled_width(shapes)
        self.classifier = nn.Linear(width, self.num_classes)
        self.placeholder = nn.Linear(width, self.config.placeholders)

    @classmethod
    def follows(cls, config: PROSERConfig) -> bool:
        return config.warmup > 0

    def attach(self, encoder: nn.Module) -> None:
        """Find the middle of the first encoder that comes; later ones only make inferences."""
        if self.middle is None and self.config.mixed_weight > 0:
            self.middle = find_middle(encoder, self.image_shape)

    def forward(self, encoder: nn.Module, images: Tensor) -> Outputs:
        """Inference; logits are z - p. images: [B, C, H, W] in [0, 1]."""
        embedding = pool(encoder(images))
        columns = self.classify(embedding)
        return Outputs(logits=columns[:, :-1] - columns[:, -1:], embedding=embedding)

    def classify(self, features: Tensor) -> Tensor:
        """z' float32 [B, N + 1] of features [B, D]."""
        largest = self.placeholder(features).float().amax(dim=1, keepdim=True)
        return torch.cat([self.classifier(features).float(), largest], dim=1)

    def losses(self, encoder: nn.Module, batch: Batch, player: str = "main", progress: float | Tensor = 1.0) -> Terms:
        """Terms `ce`, `placeholder` (0 in the warm-up) and, after the warm-up, `mixed`; where they have weight."""
        images, labels = batch
        if progress < self.config.warmup:
            columns = self.classify(pool(encoder(images)))
            # a gradient of 0, so that the optimiser has a state for what begins to learn later
            return {"ce": F.cross_entropy(columns[:, :-1], labels), "placeholder": 0.0 * columns[:, -1].mean()}
        terms = self.known_terms(encoder, batch)
        if self.config.mixed_weight > 0:
            count = max(2, len(images) // 2)
            terms["mixed"] = self.config.mixed_weight * self.mixed_loss(encoder, images[:count], labels[:count])
        return terms

    def validation_terms(self, encoder: nn.Module, batch: Batch) -> Terms:
        """Nothing is mixed: terms `ce` and `placeholder`."""
        return self.known_terms(encoder, batch)

    def known_terms(self, encoder: nn.Module, batch: Batch) -> Terms:
        """The first two terms of the loss, weighted."""
        columns = self.classify(pool(encoder(batch[0])))
        terms = {"ce": F.cross_entropy(columns, batch[1])}
        if self.config.placeholder_weight > 0:
            terms["placeholder"] = self.config.placeholder_weight * second_place_loss(columns, batch[1])
        return terms

    def mixed_loss(self, encoder: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """CE(z'(mixed), N+1), a mean over the pairs of different classes; 0 where there is none."""
        if self.middle is None:
            raise RuntimeError("attach comes before losses")
        # drawn on the host, so that no device is waited for
        share = float(torch.distributions.Beta(self.config.mix_alpha, self.config.mix_alpha).sample())
        mates = random_mates(len(images), images.device)
        with unrecorded(encoder):
            if self.middle:
                with mixed_at(encoder, self.middle, share, mates):
                    features = pool(encoder(images))
            else:
                features = pool(encoder(mix_with(images, share, mates)))
        return placeholder_loss(self.classify(features), labels != labels[mates])


def second_place_loss(columns: Tensor, labels: Tensor) -> Tensor:
    """CE(z' \\ y, N+1): the placeholder is likeliest after the own class; a mean over z' [B, N+1] and y [B] int64."""
    own = F.one_hot(labels, columns.shape[1]).bool()
    # the most negative number, not -inf: its product with a gradient of 0 would not be a number
    others = columns.masked_fill(own, torch.finfo(columns.dtype).min)
    return (others.logsumexp(dim=1) - others[:, -1]).mean()


def placeholder_loss(columns: Tensor, counts: Tensor) -> Tensor:
    """CE(z', N+1), a mean over the rows of z' [B, N+1] that count [B] bool; 0 where none does, with a gradient."""
    loss = columns.logsumexp(dim=1) - columns[:, -1]
    return (loss * counts).sum() / counts.sum().clamp_min(1)
