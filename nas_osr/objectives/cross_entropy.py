"""Cross-entropy on pooled features, with ways to pool, to normalise and to classify, and Center loss, as options.

- LogitNorm (Wei et al. 2022): the loss sees z / (t ||z||), so that confidence cannot grow with the logits' length.
- T2FNorm (Regmi et al. 2023): the classifier sees f / (t ||f||) in training, and f itself afterwards: only an image's
  direction is learned from, and its length then tells known from unknown.
- Center loss (Wen et al. 2016) is what the CAC paper compares with: 1/2 mean_i ||f_i - c_{y_i}||^2 over the batch, f
  the pooled features and c_j one learned centre a class. Wen et al. sum over the batch and move the centres by a rule
  of their own; here the mean keeps the weight independent of the batch size, and the centres are parameters, starting
  at 0, that the optimiser updates with all others, so the weight scales their steps too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_osr.errors import UserError
from nas_osr.objectives.base import Batch, Objective, Terms
from nas_osr.objectives.parts.classifiers import CosineClassifier
from nas_osr.objectives.parts.pooling import pool, pooled_width
from nas_osr.objectives.parts.side_tasks import ObjectiveConfig
from nas_osr.option_docs import NOT_NEGATIVE, POSITIVE, Range
from nas_osr.outputs import FeatureShapes, Outputs

SMALLEST = 1e-7  # added to a length that is divided by, as the authors of LogitNorm do


@dataclass(frozen=True)
class CrossEntropyConfig(ObjectiveConfig):
    """Coefficients of the loss."""

    label_smoothing: Annotated[float, Range(0, 1, below=True)] = 0.0
    """share of the target that is spread evenly over all classes, from 0 to less than 1. It helps closed-set accuracy
    and can cost the detection of unknown images several points."""
    center_weight: Annotated[float, NOT_NEGATIVE] = 0.0
    "weight of the Center loss; 0 is off."
    pooling: Literal["average", "maximum", "both"] = "average"
    """how each channel of the last maps becomes a feature: its mean, its largest value, or the mean of the two. An
    architecture that chooses its own pooling keeps it."""
    logit_norm: Annotated[float, NOT_NEGATIVE] = 0.0
    "temperature of LogitNorm, .04 in the paper; 0 is off. The loss sees logits of length 1, divided by it."
    feature_norm: Annotated[float, NOT_NEGATIVE] = 0.0
    "temperature of T2FNorm, .1 in the paper; 0 is off. Training sees features of length 1, divided by it."
    classifier: Literal["linear", "cosine", "scaled_cosine"] = "linear"
    """`cosine` has the cosines of features and class weights times `cosine_scale`; `scaled_cosine` learns the scale of
    each image, and judges by the cosines, at one scale for all."""
    cosine_scale: Annotated[float, POSITIVE] = 16.0
    "what `cosine` multiplies by."
    bias: bool = True
    "whether the linear classifier has a bias."

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classifier != "linear" and self.feature_norm:
            raise UserError(
                f"cross_entropy: classifier {self.classifier} has features of length 1 already: leave feature_norm out"
            )
        if self.classifier != "linear" and self.logit_norm:
            raise UserError(
                f"cross_entropy: logit_norm takes the scale of classifier {self.classifier} away again: leave one out"
            )

    @property
    def idle(self) -> dict[str, str]:
        found = super().idle
        if self.classifier != "cosine":
            found["cosine_scale"] = f"with classifier {self.classifier}"
        if self.classifier != "linear":
            found["bias"] = f"with classifier {self.classifier}"
        if self.logit_norm and not self.bias:  # both take away the length of the features
            found["feature_norm"] = "with logit_norm and no bias"
        return found


class CrossEntropy(Objective):
    """Softmax cross-entropy of a classifier on pooled features, which are the embedding (of length 1 under cosines).

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
        config, width = self.config, pooled_width(shapes)
        if shapes.pools and config.pooling != "average":
            raise UserError(
                f"cross_entropy: pooling {config.pooling}: the network chooses how it is pooled by itself: leave it out"
            )
        self.classifier: nn.Linear | CosineClassifier
        if config.classifier == "linear":
            self.classifier = nn.Linear(width, self.num_classes, bias=config.bias)
        else:
            scale = config.cosine_scale if config.classifier == "cosine" else 0.0
            self.classifier = CosineClassifier(width, self.num_classes, scale)
        self.centers = nn.Parameter(torch.zeros(self.num_classes, width)) if config.center_weight > 0 else None

    def linear_head(self) -> tuple[Tensor, Tensor]:
        layer = self.classifier
        if isinstance(layer, CosineClassifier):
            return layer.linear()
        return layer.weight, torch.zeros_like(layer.weight[:, 0]) if layer.bias is None else layer.bias

    def forward(self, encoder: nn.Module, images: Tensor) -> Outputs:
        features = pool(encoder(images), self.config.pooling)
        logits = self.classifier(features).float()
        linear = self.config.classifier == "linear"
        return Outputs(logits=logits, embedding=features if linear else F.normalize(features))

    def losses(self, encoder: nn.Module, batch: Batch, player: str = "main", progress: float | Tensor = 1.0) -> Terms:
        """Terms `ce` and, where it has weight, `center`."""
        images, labels = batch
        config = self.config
        features = pool(encoder(images), config.pooling)
        seen = shortened(features, config.feature_norm) if config.feature_norm else features
        logits = self.classifier(seen).float()
        if config.logit_norm:
            logits = shortened(logits, config.logit_norm)
        terms = {"ce": F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)}
        if self.centers is not None:
            terms["center"] = config.center_weight * center_loss(features, self.centers, labels)
        return terms


def shortened(vectors: Tensor, temperature: float) -> Tensor:
    """x / (t ||x||) of vectors x [B, D]: all of length 1 / t."""
    return vectors / ((vectors.norm(dim=1, keepdim=True) + SMALLEST) * temperature)


def center_loss(embedding: Tensor, centers: Tensor, labels: Tensor) -> Tensor:
    """1/2 mean_i ||f_i - c_{y_i}||^2 (Wen et al. 2016, eq. 2, over the batch size), a scalar.

    f is the embedding [B, D], c are the centers [N, D], y the labels [B] int64 in 0..N-1.
    """
    return 0.5 * (embedding - centers[labels]).square().sum(dim=1).mean()
