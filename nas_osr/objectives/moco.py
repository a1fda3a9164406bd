"""MoCo (He et al. 2020): one view of an image is matched with another among a queue of earlier images, without labels.

The other view's vector, the key, is made by a momentum encoder: a copy of encoder and head that follows them slowly.

    L = -mean log[exp(q k / t) / (exp(q k / t) + sum_{n in queue} exp(q n / t))]

With GradMix, CutMix or Mixup (GradMix, fig. 5), L + s L': in L' the vector q is that of the first view mixed with a
batch mate's, and s the mate's share (`nas_osr.objectives.parts.gradmix`). The paper prints no formula for MoCo; this is
its loss for SimCLR with MoCo's in the place of SimCLR's. The saliency is that of L.

The momentum encoder's BatchNorm uses batch statistics in training and records its own. The paper shuffles images over
GPUs between the two encoders, so that their batch statistics differ; on one device there is nothing to shuffle.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from nas_osr.data.protocols import Protocol
from nas_osr.data.views import ViewConfig, random_views
from nas_osr.objectives.base import Batch, Objective, Terms
from nas_osr.objectives.parts.contrastive import info_nce_loss, unit_vectors
from nas_osr.objectives.parts.gradmix import random_mates
from nas_osr.objectives.parts.mixing import MixConfig, Mixing
from nas_osr.objectives.parts.pooling import pool, pooled_width
from nas_osr.objectives.supcon import ProjectionHead
from nas_osr.option_docs import POSITIVE, SHARE
from nas_osr.outputs import Features, FeatureShapes, Outputs


@dataclass(frozen=True)
class MoCoConfig(MixConfig):
    """Coefficients of the loss. Queue and momentum are the GradMix paper's, temperature and head the MoCo paper's."""

    mix: str = "none"
    "gradmix, cutmix, mixup or none."
    temperature: Annotated[float, POSITIVE] = 0.07
    "t of all similarities, greater than 0."
    queue_size: Annotated[int, POSITIVE] = 8196
    "how many earlier keys are kept, at least 1."
    momentum: Annotated[float, SHARE] = 0.999
    "share of its old self that the momentum encoder keeps at each step, from 0 to 1."
    head_width: Annotated[int, POSITIVE] = 128
    "dimensions of the vectors that are compared."
    flip: bool = True
    "mirror views; not for digits."


class MoCo(Objective):
    """InfoNCE between a projection head's vectors and a queue of the momentum encoder's.

    Attributes:
        head: pooled features [B, D] to [B, head_width].
        key_encoder: the momentum encoder, from `attach` on.
        key_head: the momentum copy of `head`.
        queue: [queue_size, head_width] float32 unit vectors; random until keys have replaced them.
        position: where in the queue the next keys go.
    """

    name = "moco"
    config_class = MoCoConfig
    provides = frozenset({"embedding"})
    default_rule = "neighbours"
    follows_length = False
    makes_views = True
    view_settings = ("flip",)
    config: MoCoConfig
    queue: Tensor
    position: Tensor

    def build(self, shapes: FeatureShapes) -> None:
        config = self.config
        self.head = ProjectionHead(pooled_width(shapes), config.head_width)
        self.key_head = copy.deepcopy(self.head).requires_grad_(False)
        self.key_encoder: nn.Module | None = None
        self.mixing = Mixing(config, shapes, "moco")
        self.register_buffer("queue", unit_vectors(torch.randn(config.queue_size, config.head_width)))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    @classmethod
    def defaults(cls, protocol: Protocol, phase: str) -> dict[str, Any]:
        """Digits are not mirrored."""
        return {"flip": protocol.mirrors}

    @property
    def loss_scale(self) -> float:
        """How much larger gradients are, because of the temperature, than those of a cross-entropy."""
        return 1.0 / self.config.temperature

    def check_training(self) -> None:
        """UserError when GradMix has no map to take its saliency from."""
        self.mixing.check()

    def attach(self, encoder: nn.Module) -> None:
        """Start the momentum encoder as a copy of the first encoder that comes; later ones only make inferences."""
        if self.key_encoder is None:
            self.key_encoder = copy.deepcopy(encoder).requires_grad_(False)

    def player_parameters(self, player: str) -> list[nn.Parameter]:
        """The head's; the momentum copies only follow."""
        return list(self.head.parameters()) if player == "main" else []

    def embed(self, features: Features) -> Tensor:
        """Unit vectors [B, head_width] float32 of the encoder itself."""
        return unit_vectors(self.head(pool(features)))

    def forward(self, encoder: nn.Module, images: Tensor) -> Outputs:
        """Inference by the encoder itself. images: [B, C, H, W] in [0, 1]."""
        return Outputs(embedding=self.embed(encoder(images)))

    def losses(self, encoder: nn.Module, batch: Batch, player: str = "main", progress: float | Tensor = 1.0) -> Terms:
        """Term `info_nce`, and `mix` where images are mixed.

        A weight step first moves the momentum encoder, and leaves its keys in the queue. Where the weights are frozen
        (an architecture step) or the objective is in eval mode, both stay as they are. GradMix switches gradients on.
        """
        if self.key_encoder is None:
            raise RuntimeError("attach comes before losses")
        learning = self.training and torch.is_grad_enabled() and self.head[0].weight.requires_grad
        images, temperature = batch[0].detach(), self.config.temperature
        views = random_views(images.repeat(2, 1, 1, 1), ViewConfig(flip=self.config.flip))
        first, second = (view.contiguous(memory_format=torch.channels_last) for view in views.chunk(2))
        with torch.no_grad():
            if learning:
                follow(self.key_encoder, encoder, self.config.momentum)
                follow(self.key_head, self.head, self.config.momentum)
            keys = unit_vectors(self.key_head(pool(self.key_encoder(second))))
        negatives, salient = self.queue, self.mixing.salient
        with torch.set_grad_enabled(salient or torch.is_grad_enabled()):
            features = encoder(first.requires_grad_(salient and not self.mixing.tracked(encoder)))
            terms = {"info_nce": info_nce_loss(self.embed(features), keys, negatives, temperature)}
        if self.config.mix != "none":
            mates = random_mates(len(images), images.device)
            mixed, share = self.mixing.mix(first.detach(), mates, features, terms["info_nce"])
            terms["mix"] = share * info_nce_loss(self.embed(encoder(mixed)), keys, negatives, temperature)
        if learning:
            self.enqueue(keys)
        return terms

    def enqueue(self, keys: Tensor) -> None:
        """Replace the oldest vectors of the queue by keys [B, head_width]; at its end they go on at its start."""
        size = len(self.queue)
        places = (self.position + torch.arange(len(keys), device=keys.device)) % size
        # of more keys than there are places, the last ones stay; a new tensor, since the loss still needs the old one
        self.queue = self.queue.index_copy(0, places[-size:], keys[-size:])
        self.position = (self.position + len(keys)) % size


def follow(slow: nn.Module, fast: nn.Module, momentum: float) -> None:
    """slow <- momentum * slow + (1 - momentum) * fast, for every parameter of two modules of the same shape."""
    for own, other in zip(slow.parameters(), fast.parameters(), strict=True):
        own.lerp_(other, 1.0 - momentum)
