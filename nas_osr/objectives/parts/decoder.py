"""The image decoder of the objectives with latents: a linear map and four transposed convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas_osr.data.sources.base import Shape
from nas_osr.option_docs import Range

BOTTOM = 2  # scale of the map that feeds the latents
SLOPE = 0.2  # of every LeakyReLU in decoders and GANs
DECODER_CHANNELS = Range(16, or_zero=True)  # 0 is as many as the encoder has


class Decoder(nn.Module):
    """Latents to an image in [0, 1]: a linear map to the 1/16 grid and four transposed 3x3 convolutions.

    Args:
        latent_dim: dimensions of all latents together.
        channels: channels of the decoder at 1/16 resolution.
        image_shape: shape (C, H, W) of the images.
        extra: channels of the encoder maps that join at each scale, keyed by scale (2, 1, 0, -1).
    """

    def __init__(self, latent_dim: int, channels: int, image_shape: Shape, extra: dict[int, int]) -> None:
        super().__init__()
        self.start = (channels, image_shape[1] // 16, image_shape[2] // 16)
        self.expand = nn.Linear(latent_dim, self.start[0] * self.start[1] * self.start[2])
        self.scales = (2, 1, 0, -1)
        self.extra = extra
        self.stages = nn.ModuleList()
        for scale in self.scales:
            joined, channels = channels + extra.get(scale, 0), max(channels // 2, 4)
            widen = nn.ConvTranspose2d(joined, channels, 3, stride=2, padding=1, output_padding=1, bias=False)
            self.stages.append(nn.Sequential(widen, nn.BatchNorm2d(channels), nn.LeakyReLU(SLOPE, inplace=True)))
        self.to_image = nn.Sequential(
            nn.Conv2d(channels, channels, 1), nn.LeakyReLU(SLOPE, inplace=True), nn.Conv2d(channels, image_shape[0], 1)
        )

    def forward(self, latents: Tensor, maps: dict[int, Tensor]) -> Tensor:
        """Latents [K*B, latent_dim], maps of the B images [B, C, H, W] -> images [K*B, C, H, W]."""
        return torch.sigmoid(self.logits(latents, maps))

    def logits(self, latents: Tensor, maps: dict[int, Tensor]) -> Tensor:
        """The images before the sigmoid, which keeps values near 0 and 1 apart; arguments as in `forward`."""
        x = self.expand(latents).view(-1, *self.start)
        for scale, stage in zip(self.scales, self.stages, strict=True):
            if scale in self.extra:
                joining = maps[scale]
                x = torch.cat([x, joining.repeat(len(x) // len(joining), 1, 1, 1)], dim=1)
            x = stage(x)
        return self.to_image(x)
