"""The image decoder of the objectives with latents: a linear map and four transposed convolutions."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_osr.objectives.parts.subpixel import interleave, is_narrow, narrow_tail

SLOPE = 0.2  # of every LeakyReLU in the decoder


class Decoder(nn.Module):
    """Latents to an image in [0, 1]: a linear map to the 1/16 grid and four transposed 3x3 convolutions.

    Args:
        latent_dim: dimensions of all latents together.
        channels: channels of the decoder at 1/16 resolution.
        image_shape: shape (C, H, W) of the images.
        extra: channels of the encoder maps that join at each scale, keyed by scale (2, 1, 0, -1).
    """

    def __init__(
        self, latent_dim: int, channels: int, image_shape: tuple[int, int, int], extra: dict[int, int]
    ) -> None:
        super().__init__()
        self.start = (channels, image_shape[1] // 16, image_shape[2] // 16)
        self.expand = nn.Linear(latent_dim, self.start[0] * self.start[1] * self.start[2])
        self.scales = (2, 1, 0, -1)
        self.extra = extra
        stages = []
        for scale in self.scales:
            narrower = max(channels // 2, 4)
            stages.append(
                nn.Sequential(
                    nn.ConvTranspose2d(
                        channels + extra.get(scale, 0), narrower, 3, stride=2, padding=1, output_padding=1, bias=False
                    ),
                    nn.BatchNorm2d(narrower),
                    nn.LeakyReLU(SLOPE, inplace=True),
                )
            )
            channels = narrower
        self.stages = nn.ModuleList(stages)
        self.to_image = nn.Sequential(
            nn.Conv2d(channels, channels, 1), nn.LeakyReLU(SLOPE, inplace=True), nn.Conv2d(channels, image_shape[0], 1)
        )

    def forward(self, latents: Tensor, maps: dict[int, Tensor]) -> Tensor:
        """latents [K*B, latent_dim], maps of the B images [B, C, H, W] -> images [K*B, C, H, W]."""
        return torch.sigmoid(self.logits(latents, maps))

    def logits(self, latents: Tensor, maps: dict[int, Tensor]) -> Tensor:
        """The images before the sigmoid, which keeps values near 0 and 1 apart; arguments as in `forward`."""
        pixels, by_phase = self.pixel_logits(latents, maps)
        return interleave(pixels) if by_phase else pixels

    def pixel_logits(self, latents: Tensor, maps: dict[int, Tensor]) -> tuple[Tensor, bool]:
        """`logits`, or its pixels by phase (`subpixel.split_phases`) where the last stage computes them so; and which.

        Whoever takes pixels one by one saves the copy that puts them into their places.
        """
        composed = self.scales[0] not in self.extra and self.composing_pays(len(latents))
        x = self.first_convolution(latents) if composed else self.expand(latents).view(-1, *self.start)
        stages = cast("list[nn.Sequential]", list(self.stages))
        for scale, stage in zip(self.scales, stages, strict=True):
            if scale in self.extra:
                joining = maps[scale]
                x = torch.cat([x, joining.repeat(len(x) // len(joining), 1, 1, 1)], dim=1)
            if composed and scale == self.scales[0]:
                x = stage[2](stage[1](x))  # its convolution is done
            elif scale == self.scales[-1] and is_narrow(stage, x):
                return narrow_tail(stage, self.to_image, x), True
            else:
                x = stage(x)
        return self.to_image(x), False

    def composing_pays(self, rows: int) -> bool:
        """Whether `first_convolution` takes fewer multiplications for this many latents than the two maps in turn."""
        inputs, channels, narrower = self.expand.in_features, self.start[0], self.stages[0][0].out_channels  # type: ignore[index]
        convolution = 9 * channels * narrower  # of one position at 1/16 resolution, which becomes four
        composed = (inputs + 1) * convolution + rows * inputs * 4 * narrower
        return composed < rows * (inputs * channels + convolution)

    def first_convolution(self, latents: Tensor) -> Tensor:
        """The first stage's convolution of `expand(latents)`: [K*B, c, H/8, W/8], channels last.

        Both maps are linear, and so is one after the other: the convolution is made of the columns of `expand` and its
        bias, however many images there are, and latents [K*B, latent_dim] are multiplied by the result.
        """
        columns = torch.cat([self.expand.weight.T, self.expand.bias[None]]).view(-1, *self.start)
        images = self.stages[0][0](columns)  # type: ignore[index]
        height, width = images.shape[2:]
        matrix = images.permute(0, 2, 3, 1).flatten(1)
        x = F.linear(latents, matrix[:-1].T, matrix[-1])
        return x.view(-1, height, width, images.shape[1]).permute(0, 3, 1, 2)
