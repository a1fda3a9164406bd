"""SupCon with SimCLR and GradMix (the paper GradMix, informed mixing): contrastive learning of known classes.

With two views of every image, f(v) the unit vector that a head makes of a view's features, and s the share of the
mixed images that comes from a batch mate (gamma^2, see `nas_osr.objectives.parts.gradmix`),

    L = theta L_supcon + lambda (L_simclr + s L_mix)

L_supcon and L_simclr are over the 2B views; L_mix draws each view to the mixed views of its own image, among all mixed
views (with `mixed_views` 1, one of each image). lambda alone (theta 0, no mixing) is SimCLR. There is no classifier:
images are compared by their f.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from nas_osr.data.protocols import Protocol
from nas_osr.data.views import ViewConfig, random_views
from nas_osr.errors import UserError
from nas_osr.objectives.base import Batch, Objective, Terms
from nas_osr.objectives.parts.contrastive import mixed_nt_xent_loss, nt_xent_loss, supcon_loss, unit_vectors
from nas_osr.objectives.parts.gradmix import random_mates
from nas_osr.objectives.parts.mixing import MixConfig, Mixing
from nas_osr.objectives.parts.pooling import pool, pooled_width
from nas_osr.option_docs import NOT_NEGATIVE, POSITIVE, Range
from nas_osr.outputs import Features, FeatureShapes, Outputs


@dataclass(frozen=True)
class SupConConfig(MixConfig):
    """Coefficients of the loss; the defaults are the paper's for CIFAR-10."""

    supcon_weight: Annotated[float, NOT_NEGATIVE] = 1.0
    "theta; 0 leaves the labels unused."
    simclr_weight: Annotated[float, NOT_NEGATIVE] = 1.2
    "lambda, of the SimCLR loss and of the loss on mixed images; 0 leaves both out."
    temperature: Annotated[float, POSITIVE] = 0.05
    "t of all similarities, greater than 0."
    head_width: Annotated[int, POSITIVE] = 128
    "dimensions of f."
    mixed_views: Annotated[int, Range(1, 2)] = 2
    "how many views of an image are mixed, 1 or 2; 1 spares a quarter of the passes of the network."
    augment: bool = True
    "vary the two views; without it they are the image itself, twice."
    flip: bool = True
    "mirror views; not for digits."

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.supcon_weight == self.simclr_weight == 0:
            raise UserError("supcon: supcon_weight and simclr_weight are both 0, which leaves no loss; set one of them")

    @property
    def idle(self) -> dict[str, str]:
        found = super().idle
        if self.mix == "none":
            found["mixed_views"] = "with mix none"
        elif self.simclr_weight == 0:
            mixing = (item.name for item in fields(MixConfig) if item.name not in ("side_task", "side_weight"))
            found |= dict.fromkeys((*mixing, "mixed_views"), "with simclr_weight 0")
        if not self.augment:
            found["flip"] = "without augment"
        return found


class ProjectionHead(nn.Sequential):
    """Pooled features [B, D] to what is compared [B, width]: linear, ReLU, linear, as in SimCLR."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, width))


class SupCon(Objective):
    """The contrastive loss on the unit vectors of a projection head.

    Attributes:
        head: pooled features [B, D] to [B, head_width].
    """

    name = "supcon"
    config_class = SupConConfig
    provides = frozenset({"embedding"})
    default_rule = "neighbours"
    follows_length = False
    makes_views = True
    view_settings = ("augment", "flip")
    config: SupConConfig

    def build(self, shapes: FeatureShapes) -> None:
        config = self.config
        self.head = ProjectionHead(pooled_width(shapes), config.head_width)
        self.mixes = config.mix != "none" and config.simclr_weight > 0
        self.mixing = Mixing(config, shapes, "supcon")

    def check_training(self) -> None:
        """UserError when GradMix has no map to take its saliency from."""
        if self.mixes:
            self.mixing.check()

    @classmethod
    def defaults(cls, protocol: Protocol, phase: str) -> dict[str, Any]:
        """The paper's coefficients by image source; what it does on MNIST holds for all grey digits."""
        if not protocol.mirrors and protocol.image_shape[0] == 1:
            return {"simclr_weight": 3.0, "mix": "none", "augment": False, "flip": False}
        return {"flip": protocol.mirrors, **{"tinyimagenet": {"simclr_weight": 1.0}}.get(protocol.source, {})}

    @property
    def loss_scale(self) -> float:
        """The terms' weights over the temperature: how much larger gradients are than those of a cross-entropy."""
        return (self.config.supcon_weight + self.config.simclr_weight) / self.config.temperature

    def embed(self, features: Features) -> Tensor:
        """f: unit vectors [B, head_width] float32."""
        return unit_vectors(self.head(pool(features)))

    def forward(self, encoder: nn.Module, images: Tensor) -> Outputs:
        return Outputs(embedding=self.embed(encoder(images)))

    def losses(self, encoder: nn.Module, batch: Batch, player: str = "main", progress: float | Tensor = 1.0) -> Terms:
        """Terms `supcon`, `simclr` and `mix`, weighted; a term without weight is left out.

        One pass of the encoder takes both views, a second one the mixed views. GradMix needs gradients: it switches
        them on under `torch.no_grad`, and cannot work under `torch.inference_mode`.
        """
        images, labels = batch
        config = self.config
        both = images.detach().repeat(2, 1, 1, 1)
        if config.augment:
            both = random_views(both, ViewConfig(flip=config.flip))
        views = both.contiguous(memory_format=torch.channels_last)
        salient = self.mixes and self.mixing.salient
        with torch.set_grad_enabled(salient or torch.is_grad_enabled()):
            features = encoder(views.requires_grad_(salient and not self.mixing.tracked(encoder)))
            embedding = self.embed(features)
            terms = {}
            if config.supcon_weight > 0:
                loss = supcon_loss(embedding, labels.repeat(2), config.temperature)
                terms["supcon"] = config.supcon_weight * loss
            if config.simclr_weight > 0:
                first, second = embedding.chunk(2)
                loss = nt_xent_loss(first, second, config.temperature)
                terms["simclr"] = config.simclr_weight * loss
            contrast = torch.stack(list(terms.values())).sum()
        if self.mixes:
            count, number = len(images), config.mixed_views
            mates = random_mates(count, images.device)
            # both views of an image have views of the same mate
            mates = torch.cat([mates, mates + count])[: number * count]
            mixed, share = self.mixing.mix(views.detach()[: number * count], mates, features, contrast)
            loss = mixed_nt_xent_loss(embedding, self.embed(encoder(mixed)), config.temperature)
            terms["mix"] = config.simclr_weight * share * loss
        return terms
