"""Cross-entropy on pooled features, with label smoothing and Center loss (Wen et al. 2016) as options.

Center loss is what the CAC paper compares with: 1/2 mean_i ||f_i - c_{y_i}||^2 over the batch, f the pooled features
and c_j one learned centre a class. Wen et al. sum over the batch and move the centres by a rule of their own; here the
mean keeps the weight independent of the batch size, and the centres are parameters, starting at 0, that the optimiser
updates with all others, so the weight scales their steps too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_osr.configuration import Checked
from nas_osr.objectives.base import Batch, Objective, Terms
from nas_osr.objectives.parts.pooling import pool, pooled_width
from nas_osr.option_docs import NOT_NEGATIVE, Range
from nas_osr.outputs import FeatureShapes, Outputs


@dataclass(frozen=True)
class CrossEntropyConfig(Checked):
    """Coefficients of the loss."""

    label_smoothing: Annotated[float, Range(0, 1, below=True)] = 0.0
    """share of the target that is spread evenly over all classes, from 0 to less than 1. It helps closed-set accuracy
    and can cost the detection of unknown images several points."""
    center_weight: Annotated[float, NOT_NEGATIVE] = 0.0
    "weight of the Center loss; 0 is off."


class CrossEntropy(Objective):
    """Softmax cross-entropy of a linear classifier on pooled features.

    Attributes:
        classifier: features [B, D] to logits [B, N].
        centers: [N, D] of the Center loss; None when it is off.
    """

    name = "cross_entropy"
    config_class = CrossEntropyConfig
    provides = frozenset({"logits", "embedding"})
    default_rule = "mls"
    last_layer = "classifier"
    follows_length = False
    divisible = True
    capturable = True
    config: CrossEntropyConfig

    def build(self, shapes: FeatureShapes) -> None:
        width = pooled_width(shapes)
        self.classifier = nn.Linear(width, self.num_classes)
        self.centers = nn.Parameter(torch.zeros(self.num_classes, width)) if self.config.center_weight > 0 else None

    def forward(self, encoder: nn.Module, images: Tensor) -> Outputs:
        embedding = pool(encoder(images))
        return Outputs(logits=self.classifier(embedding).float(), embedding=embedding)

    def losses(self, encoder: nn.Module, batch: Batch, player: str = "main", progress: float | Tensor = 1.0) -> Terms:
        """Terms `ce` and, where it has weight, `center`."""
        images, labels = batch
        embedding = pool(encoder(images))
        logits = self.classifier(embedding).float()
        terms = {"ce": F.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)}
        if self.centers is not None:
            terms["center"] = self.config.center_weight * center_loss(embedding, self.centers, labels)
        return terms


def center_loss(embedding: Tensor, centers: Tensor, labels: Tensor) -> Tensor:
    """1/2 mean_i ||f_i - c_{y_i}||^2 (Wen et al. 2016, eq. 2, over the batch size), a scalar.

    f is the embedding [B, D], c are the centers [N, D], y the labels [B] int64 in 0..N-1.
    """
    return 0.5 * (embedding - centers[labels]).square().sum(dim=1).mean()
