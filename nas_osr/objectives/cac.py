"""Class Anchor Clustering (Miller et al. 2021): logits are pulled to a fixed anchor of their class.

Anchor j is C_j = alpha e_j in logit space, d_j = ||z - C_j||_2 (not squared) the distance of the logits z to it. With y
the image's class, averaged over the batch,

    L = tuplet + lambda anchor,   tuplet = log(1 + sum_{j != y} exp(d_y - d_j)),   anchor = d_y

The tuplet term is the cross-entropy of the logits -d, which is how it is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_osr.errors import UserError
from nas_osr.objectives.base import Batch, Objective, Terms
from nas_osr.objectives.parts.pooling import pool, pooled_width
from nas_osr.objectives.parts.side_tasks import ObjectiveConfig
from nas_osr.option_docs import NOT_NEGATIVE, POSITIVE
from nas_osr.outputs import FeatureShapes, Outputs

LARGE = 1e15  # differences above this are scaled before they are squared


@dataclass(frozen=True)
class CACConfig(ObjectiveConfig):
    """Coefficients of the loss; the defaults are the paper's."""

    alpha: Annotated[float, POSITIVE] = 10.0
    "the length of every anchor, greater than 0."
    anchor_weight: Annotated[float, NOT_NEGATIVE] = 0.1
    "lambda, the weight of the anchor term; 0 is tuplet loss only."
    tuplet_weight: Annotated[float, NOT_NEGATIVE] = 1.0
    "weight of the tuplet term; 0 is anchor loss only."

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.anchor_weight == self.tuplet_weight == 0:
            raise UserError("cac: anchor_weight and tuplet_weight are both 0, which leaves no loss; set one of them")


class CAC(Objective):
    """The CAC loss on the logits of a linear layer over pooled features.

    Attributes:
        to_logits: features [B, D] to logits [B, N].
        anchors: [N, N] float32, row j the training anchor of class j. Training never moves them.
    """

    name = "cac"
    config_class = CACConfig
    provides = frozenset({"logits", "embedding", "distances"})
    default_rule = "cac"
    last_layer = "to_logits"
    follows_length = False
    divisible = True
    capturable = True
    config: CACConfig
    anchors: Tensor

    def build(self, shapes: FeatureShapes) -> None:
        self.to_logits = nn.Linear(pooled_width(shapes), self.num_classes)
        nn.init.normal_(self.to_logits.weight, std=0.01)  # as the authors start
        nn.init.zeros_(self.to_logits.bias)
        self.register_buffer("anchors", self.config.alpha * torch.eye(self.num_classes), persistent=False)

    @property
    def loss_scale(self) -> float:
        """The weight of the tuplet term, or of the anchor term when that is the only one."""
        return self.config.tuplet_weight or self.config.anchor_weight

    def forward(self, encoder: nn.Module, images: Tensor) -> Outputs:
        """Inference; distances are to the training anchors. images: [B, C, H, W] in [0, 1]."""
        embedding = pool(encoder(images))
        logits = self.to_logits(embedding).float()
        return Outputs(logits=logits, embedding=embedding, distances=anchor_distances(logits, self.anchors))

    def losses(self, encoder: nn.Module, batch: Batch, player: str = "main", progress: float | Tensor = 1.0) -> Terms:
        """Terms `tuplet` and `anchor`, weighted; a term without weight is left out."""
        images, labels = batch
        distances = anchor_distances(self.to_logits(pool(encoder(images))).float(), self.anchors)
        terms = {}
        if self.config.tuplet_weight > 0:
            terms["tuplet"] = self.config.tuplet_weight * tuplet_loss(distances, labels)
        if self.config.anchor_weight > 0:
            terms["anchor"] = self.config.anchor_weight * anchor_loss(distances, labels)
        return terms

    def validation_terms(self, encoder: nn.Module, batch: Batch) -> Terms:
        """Term `anchor` alone, d_y without weight, by which the authors choose the epoch."""
        images, labels = batch
        distances = anchor_distances(self.to_logits(pool(encoder(images))).float(), self.anchors)
        return {"anchor": anchor_loss(distances, labels)}


def anchor_distances(logits: Tensor, anchors: Tensor) -> Tensor:
    """d_j = ||z - C_j||_2 [B, N] of logits [B, N] to anchors [N, N]; at distance 0 the gradient is 0, never NaN."""
    differences = logits[:, None, :] - anchors
    # beyond this a square may not fit float32, and infinite distances make NaN of the tuplet loss
    size = differences.detach().abs().amax(dim=2, keepdim=True)
    size = torch.where(size > LARGE, size, 1.0)
    return torch.linalg.vector_norm(differences / size, dim=2) * size[:, :, 0]


def tuplet_loss(distances: Tensor, labels: Tensor) -> Tensor:
    """Mean of log(1 + sum_{j != y} exp(d_y - d_j)), a scalar. distances: [B, N]; labels: [B] int64."""
    return F.cross_entropy(-distances, labels)


def anchor_loss(distances: Tensor, labels: Tensor) -> Tensor:
    """Mean of d_y, a scalar. distances: [B, N]; labels: [B] int64."""
    return distances.gather(1, labels[:, None]).mean()
