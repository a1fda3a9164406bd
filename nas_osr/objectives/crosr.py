"""Classification-reconstruction learning (CROSR, Yoshihashi et al. 2019) on any encoder with intermediate maps.

Each intermediate map x_l has a narrow lateral latent z_l = h_l(x_l), and a top-down decoder joins them, from the
coarsest to the finest, into an image:

    x~_l = g_l(x~_{l+1} + h~_l(z_l)),   L = cross-entropy(logits) + weight * ((x - x~_0) / channel std)^2

The latents z, every z_l averaged over its positions, go to the rule beside the logits: what classification does not
need of an image is kept there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_osr.data.protocols import Protocol
from nas_osr.errors import UserError
from nas_osr.objectives.base import Batch, Objective, Terms
from nas_osr.objectives.parts.decoder import SLOPE
from nas_osr.objectives.parts.pooling import pool, pooled_width
from nas_osr.objectives.parts.side_tasks import ObjectiveConfig
from nas_osr.option_docs import NOT_NEGATIVE, POSITIVE
from nas_osr.outputs import Features, FeatureShapes, Outputs


@dataclass(frozen=True)
class CROSRConfig(ObjectiveConfig):
    """Coefficients of the loss and widths of the reconstruction's path."""

    reconstruction_weight: Annotated[float, NOT_NEGATIVE] = 1.0
    "weight of the mean squared error; 0 leaves plain cross-entropy with untrained latents."
    latent_channels: Annotated[int, POSITIVE] = 32
    "channels of each z_l, at most as many as its map has."
    decoder_channels: Annotated[int, POSITIVE] = 128
    "channels of each x~_l, at most as many as the encoder's map has."
    pixel_std: Annotated[tuple[float, ...] | None, POSITIVE] = None
    "standard deviation of each channel, in which errors are measured; the protocol's when not given."

    @property
    def idle(self) -> dict[str, str]:
        unread = () if self.reconstruction_weight else ("decoder_channels", "pixel_std")
        return {**super().idle, **dict.fromkeys(unread, "with reconstruction_weight 0")}


class CROSR(Objective):
    """Cross-entropy with lateral latents and their decoder.

    `embedding` is z.

    Attributes:
        scales: of the encoder's intermediate maps, coarsest first; the lists below have this order.
        to_latent: h_l, 1x1 convolutions with ReLU.
        from_latent: h~_l, 1x1 convolutions.
        refine: g_l, 3x3 convolutions to the width of the next finer level.
        to_image: the last convolution, at the image's resolution.
    """

    name = "crosr"
    config_class = CROSRConfig
    provides = frozenset({"logits", "embedding"})
    default_rule = "crosr"
    follows_length = False
    divisible = True
    capturable = True
    config: CROSRConfig

    def build(self, shapes: FeatureShapes) -> None:
        config = self.config
        if not shapes.intermediate:
            raise UserError("crosr: the encoder has no intermediate maps to reconstruct from")
        self.classifier = nn.Linear(pooled_width(shapes), self.num_classes)
        self.scales = sorted(shapes.intermediate, reverse=True)
        channels = [shapes.intermediate[scale][0] for scale in self.scales]
        latents = [min(width, config.latent_channels) for width in channels]
        widths = [min(width, config.decoder_channels) for width in channels]
        self.to_latent = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, latent, 1), nn.ReLU())
            for width, latent in zip(channels, latents, strict=True)
        )
        self.from_latent = nn.ModuleList(map(partial(nn.Conv2d, kernel_size=1), latents, widths))
        self.refine = nn.ModuleList()
        for width, finer in zip(widths, [*widths[1:], widths[-1]], strict=True):
            convolution = nn.Conv2d(width, finer, 3, padding=1, bias=False)
            self.refine.append(nn.Sequential(convolution, nn.BatchNorm2d(finer), nn.LeakyReLU(SLOPE, inplace=True)))
        self.to_image = nn.Conv2d(widths[-1], self.image_shape[0], 3, padding=1)
        self.inverse_std: Tensor
        scale = torch.tensor(config.pixel_std or (1.0,) * self.image_shape[0]).view(1, -1, 1, 1)
        self.register_buffer("inverse_std", 1.0 / scale, persistent=False)

    @classmethod
    def defaults(cls, protocol: Protocol, phase: str) -> dict[str, Any]:
        """The protocol's channel deviations."""
        return {"pixel_std": protocol.std}

    def latents(self, features: Features) -> list[Tensor]:
        """z_l [B, latent, H_l, W_l] of every level, coarsest first; at least 0."""
        return [
            lateral(features.intermediate[scale]) for scale, lateral in zip(self.scales, self.to_latent, strict=True)
        ]

    def decode(self, latents: list[Tensor]) -> Tensor:
        """The latents of every level, coarsest first -> images [B, C, H, W] in [0, 1]."""
        x = self.refine[0](self.from_latent[0](latents[0]))
        for latent, widen, refine in zip(latents[1:], self.from_latent[1:], self.refine[1:], strict=True):
            joined = widen(latent)
            x = refine(joined + F.interpolate(x, size=joined.shape[2:]))
        return torch.sigmoid(self.to_image(F.interpolate(x, size=self.image_shape[1:])))

    def forward(self, encoder: nn.Module, images: Tensor) -> Outputs:
        """Inference; nothing is decoded. images: [B, C, H, W] in [0, 1]."""
        features = encoder(images)
        embedding = torch.cat([latent.float().mean(dim=(2, 3)) for latent in self.latents(features)], dim=1)
        return Outputs(logits=self.classifier(pool(features)).float(), embedding=embedding)

    def losses(self, encoder: nn.Module, batch: Batch, player: str = "main", progress: float | Tensor = 1.0) -> Terms:
        """Terms `ce` and, where it has weight, `reconstruction`."""
        images, labels = batch
        features = encoder(images)
        terms = {"ce": F.cross_entropy(self.classifier(pool(features)).float(), labels)}
        if self.config.reconstruction_weight > 0:
            difference = self.decode(self.latents(features)).float() - images.float()
            error = (difference * self.inverse_std).square().mean()
            terms["reconstruction"] = self.config.reconstruction_weight * error
        return terms
