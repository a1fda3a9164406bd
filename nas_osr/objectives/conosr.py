"""Contrastive open-set recognition (ConOSR, Xu et al. 2023): SupCon on soft labels, from label smoothing and mixup.

A batch has two views of each image, and both mixed with a batch mate's, l of it, l from Beta(alpha, alpha). With f the
unit vectors of all 4B, y their labels, smoothed and mixed alike, and a_ij the cosine of y_i and y_j, the encoder learns

    L = -mean_i 1 / sum_j a_ij sum_j a_ij log[exp(f_i f_j / t) / sum_{k != i} exp(f_i f_k / t)]

as the authors' code has it. Images are classified from the pooled features, by two layers with spectral normalisation
whose gradient does not reach the encoder. The authors train these afterwards, on the finished encoder; here they are
trained along, on the views that are not mixed. Theirs are also shifts by up to 4 pixels and RandAugment in place of
crops, and BatchNorm that records mixed views.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_osr.data.protocols import Protocol
from nas_osr.data.views import ViewConfig, random_views
from nas_osr.objectives.base import Batch, Objective, Terms
from nas_osr.objectives.parts.classifiers import SpectralLinear
from nas_osr.objectives.parts.contrastive import similarities, soft_supcon_loss, unit_vectors
from nas_osr.objectives.parts.cutting import mix_with
from nas_osr.objectives.parts.freezing import unrecorded
from nas_osr.objectives.parts.gradmix import random_mates
from nas_osr.objectives.parts.pooling import pool, pooled_width
from nas_osr.objectives.parts.side_tasks import ObjectiveConfig
from nas_osr.option_docs import NOT_NEGATIVE, POSITIVE, Range
from nas_osr.outputs import FeatureShapes, Outputs

VIEWS: dict[str, dict[str, Any]] = {
    "cropped": {"scale": (0.6, 1.0), "jitter_probability": 0.0, "grey_probability": 0.0},
    "simclr": {},
}
"""By `views`: what differs from SimCLR's magnitudes."""


@dataclass(frozen=True)
class ConOSRConfig(ObjectiveConfig):
    """Coefficients of the loss; the defaults are the authors'."""

    temperature: Annotated[float, POSITIVE] = 0.1
    "t of all similarities, greater than 0."
    head_width: Annotated[int, POSITIVE] = 128
    "dimensions of f."
    label_smoothing: Annotated[float, Range(0, 1, below=True)] = 0.2
    "share of a label that the other classes have when images are compared, from 0 to less than 1."
    classifier_smoothing: Annotated[float, Range(0, 1, below=True)] = 0.1
    "the same for the classifier."
    mix_alpha: Annotated[float, NOT_NEGATIVE] = 1.0
    "alpha of the Beta distribution of how much is mixed; 0 is no mixing, which spares half of the passes."
    views: Literal["cropped", "simclr"] = "cropped"
    "how the two views are varied: a little cropped, and mirrored; or much, and coloured, as in SimCLR."
    flip: bool = True
    "mirror views; not for digits."


class ConOSR(Objective):
    """The contrastive loss on the unit vectors of a linear head, and a classifier that only looks on.

    Attributes:
        head: pooled features [B, D] to [B, head_width].
        classifier: pooled features [B, D] to logits [B, N].
    """

    name = "conosr"
    config_class = ConOSRConfig
    provides = frozenset({"logits", "embedding"})
    default_rule = "class_thresholds"
    follows_length = False
    makes_views = True
    view_settings = ("views", "flip")
    config: ConOSRConfig

    def build(self, shapes: FeatureShapes) -> None:
        width = pooled_width(shapes)
        self.head = nn.Linear(width, self.config.head_width)
        self.classifier = nn.Sequential(
            SpectralLinear(width, width), nn.ReLU(), SpectralLinear(width, self.num_classes)
        )

    @classmethod
    def defaults(cls, protocol: Protocol, phase: str) -> dict[str, Any]:
        """Digits are not mirrored."""
        return {"flip": protocol.mirrors}

    @property
    def loss_scale(self) -> float:
        """How much larger gradients are, because of the temperature, than those of a cross-entropy."""
        return 1.0 / self.config.temperature

    def forward(self, encoder: nn.Module, images: Tensor) -> Outputs:
        """Inference; the embedding is f. images: [B, C, H, W] in [0, 1]."""
        features = pool(encoder(images))
        return Outputs(logits=self.classifier(features), embedding=unit_vectors(self.head(features)))

    def view(self, images: Tensor) -> Tensor:
        """One random view of each image, from torch's global generator."""
        return random_views(images, ViewConfig(flip=self.config.flip, **VIEWS[self.config.views]))

    def losses(self, encoder: nn.Module, batch: Batch, player: str = "main", progress: float | Tensor = 1.0) -> Terms:
        """Terms `supcon` and `ce`, the latter times `loss_scale`: recipes that divide by it leave the classifier alone.

        One pass of the encoder takes both views, a second one the mixed views.
        """
        images, labels = batch[0].detach(), batch[1].repeat(2)
        config, count = self.config, len(batch[0])
        views = self.view(images.repeat(2, 1, 1, 1)).contiguous(memory_format=torch.channels_last)
        features = pool(encoder(views))
        embedding = self.head(features)
        targets = smooth_labels(labels, self.num_classes, config.label_smoothing)
        if config.mix_alpha > 0:
            # drawn on the host, so that no device is waited for
            share = float(torch.distributions.Beta(config.mix_alpha, config.mix_alpha).sample())
            mates = random_mates(count, images.device)
            mates = torch.cat([mates, mates + count])  # both views of an image have views of the same mate
            with unrecorded(encoder):
                mixed = pool(encoder(mix_with(views, share, mates)))
            embedding = torch.cat([embedding, self.head(mixed)])
            targets = torch.cat([targets, mix_with(targets, share, mates)])
        directions = F.normalize(targets)
        affinities = similarities(directions, directions, 1.0)
        loss = soft_supcon_loss(unit_vectors(embedding), affinities, config.temperature)
        hints = smooth_labels(labels, self.num_classes, config.classifier_smoothing)
        ce = F.cross_entropy(self.classifier(features.detach()), hints)
        return {"supcon": loss, "ce": self.loss_scale * ce}


def smooth_labels(labels: Tensor, classes: int, share: float) -> Tensor:
    """Labels [B] int64 as distributions [B, N] float32: 1 - share for the own class, the rest evenly for the others."""
    own = F.one_hot(labels, classes).float()
    return own * (1.0 - share) + (1.0 - own) * (share / max(1, classes - 1))
