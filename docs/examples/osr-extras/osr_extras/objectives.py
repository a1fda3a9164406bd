"""A training objective."""

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import nn

from nas_osr.objectives.base import Objective
from nas_osr.objectives.parts.pooling import pool, pooled_width
from nas_osr.objectives.parts.side_tasks import ObjectiveConfig
from nas_osr.option_docs import POSITIVE
from nas_osr.outputs import Outputs


@dataclass(frozen=True)
class PrototypesConfig(ObjectiveConfig):
    """Coefficients of the loss."""

    scale: Annotated[float, POSITIVE] = 16.0
    "what cosines are multiplied by."


class Prototypes(Objective):
    """Cross-entropy of scaled cosines to one learned direction a class."""

    name = "prototypes"
    config_class = PrototypesConfig
    provides = frozenset({"logits", "embedding"})
    default_rule = "mls"

    def build(self, shapes):
        self.directions = nn.Parameter(torch.randn(self.num_classes, pooled_width(shapes)))

    def forward(self, encoder, images):
        embedding = F.normalize(pool(encoder(images)))
        cosines = embedding @ F.normalize(self.directions).T
        return Outputs(logits=self.config.scale * cosines.float(), embedding=embedding)

    def losses(self, encoder, batch, player="main", progress=1.0):
        images, labels = batch
        return {"ce": F.cross_entropy(self(encoder, images).logits, labels)}
