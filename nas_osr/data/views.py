"""Strongly varied views of images for contrastive learning (SimCLR, Chen et al. 2020): batched, on the images' device.

Random resized crop, mirroring, colour jitter and grey, every image on its own, with the magnitudes that SimCLR and
SupCon use on CIFAR. A crop is resampled from the whole image, so its edges are not cut to whole pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_osr.data.augmentation import check_crops, crop_sides
from nas_osr.data.precision import outside_autocast
from nas_osr.errors import UserError

GREY_WEIGHTS = (0.2989, 0.587, 0.114)  # ITU-R BT.601, as torchvision has them


@dataclass(frozen=True)
class ViewConfig:
    """How views are varied.

    Attributes:
        flip: mirror half of the images from left to right; not for digits.
        scale: range of the cropped share of the area, in (0, 1].
        aspect: the crop's width/height is log-uniform in [1/aspect, aspect], as far as it fits; at least 1.
        brightness, contrast, saturation: factors are uniform in [1 - value, 1 + value]; from 0 to 1. Saturation
            applies to colour images only.
        hue: the turn is uniform in [-hue, hue], in turns of the colour circle; from 0 to 0.5. Colour images only.
        jitter_probability: share of the images whose colours are varied.
        grey_probability: share of the colour images that lose their colours.
    """

    flip: bool = True
    scale: tuple[float, float] = (0.2, 1.0)
    aspect: float = 4 / 3
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    jitter_probability: float = 0.8
    grey_probability: float = 0.2

    def __post_init__(self) -> None:
        check_crops(self, where="views: ")
        for name in ("brightness", "contrast", "saturation", "jitter_probability", "grey_probability"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UserError(f"views: {name} must lie between 0 and 1, got {getattr(self, name)}")
        if not 0.0 <= self.hue <= 0.5:
            raise UserError(f"views: hue must lie between 0 and 0.5, got {self.hue}")


@outside_autocast
def random_views(images: Tensor, config: ViewConfig | None = None, generator: torch.Generator | None = None) -> Tensor:
    """One random view of each image.

    The four colour changes come in a random order, the same for the whole batch.

    Args:
        images: float [B, C, H, W] in [0, 1]; colour when C is 3.
        config: the magnitudes; None is the usual ones.
        generator: the only source of randomness, on any device; None is torch's global one.

    Returns:
        [B, C, H, W], still in [0, 1], on the images' device.
    """
    config = config or ViewConfig()
    if not len(images):
        return images
    colourful = images.shape[1] == 3
    drawn_on = images.device if generator is None else generator.device
    draws = torch.rand(11, len(images), generator=generator, device=drawn_on).to(images.device)
    views = crop(images, *random_crops(draws[:4], config), mirrored=(draws[4] < 0.5) & config.flip)
    # the order is drawn where reading it does not wait for a GPU
    order = torch.randperm(4, generator=generator, device="cpu" if generator is None else drawn_on).tolist()
    views = vary_colours(views, draws[5:10], order, config)
    if colourful:
        views = torch.where((draws[10] < config.grey_probability)[:, None, None, None], grey(views), views)
    return views.clamp_(0.0, 1.0)


def vary_colours(views: Tensor, draws: Tensor, order: Sequence[int], config: ViewConfig) -> Tensor:
    """Images [B, C, H, W] with other brightness, contrast, saturation and hue (numbered so), in this order.

    draws: [5, B] uniform in [0, 1): which images are varied at all, and how much each of the four.
    """
    # images that are left alone get the factors that change nothing
    jitter = (draws[0] < config.jitter_probability).to(views.dtype)
    brightness, contrast, saturation = (
        1 + jitter * strength * (2 * draw - 1)
        for strength, draw in zip((config.brightness, config.contrast, config.saturation), draws[1:4], strict=True)
    )
    turn = jitter * config.hue * (2 * draws[4] - 1)
    colourful = views.shape[1] == 3
    for change in order:
        if change == 0:
            views = adjust_brightness(views, brightness)
        elif change == 1:
            views = adjust_contrast(views, contrast)
        elif change == 2 and colourful:
            views = adjust_saturation(views, saturation)
        elif change == 3 and colourful:
            views = adjust_hue(views, turn)
    return views


def random_crops(draws: Tensor, config: ViewConfig) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Crops from numbers [4, B] uniform in [0, 1): centre x, centre y, width, height, each [B] as shares of a side."""
    width, height = crop_sides(draws[0], draws[1], config)
    return width / 2 + (1 - width) * draws[2], height / 2 + (1 - height) * draws[3], width, height


def crop(images: Tensor, x: Tensor, y: Tensor, width: Tensor, height: Tensor, mirrored: Tensor) -> Tensor:
    """Cut a window out of each image and resize it (bilinear) to the image's size, mirrored where asked.

    Args:
        images: [B, C, H, W].
        x, y: [B] the window's centre, as shares of the image's width and height.
        width, height: [B] its sides, as shares.
        mirrored: [B] bool.
    """
    across = torch.where(mirrored, -width, width)
    zero = torch.zeros_like(width)
    theta = torch.stack(
        [torch.stack([across, zero, 2 * x - 1], dim=1), torch.stack([zero, height, 2 * y - 1], dim=1)], dim=1
    )
    grid = F.affine_grid(theta.to(images.dtype), list(images.shape), align_corners=False)
    # beyond the outermost pixel centres the image goes on as it ends
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Every value times its image's factor [B], cut to [0, 1]."""
    return (images * factor[:, None, None, None]).clamp_(0.0, 1.0)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """The distance of every value from its image's mean grey times the factor [B], cut to [0, 1]."""
    light = brightness_of(images) if images.shape[1] == 3 else images
    return blend(images, light.mean(dim=(1, 2, 3), keepdim=True), factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """The distance of every colour from its own grey times the factor [B], cut to [0, 1]. images: [B, 3, H, W]."""
    return blend(images, brightness_of(images), factor)


def adjust_hue(images: Tensor, turn: Tensor) -> Tensor:
    """Every colour turned on the colour circle by its image's turn [B], 1 being a full circle. images: [B, 3, H, W]."""
    red, green, blue = images.unbind(1)
    value, chroma = images.amax(1), images.amax(1) - images.amin(1)
    divisor = torch.where(chroma > 0, chroma, 1.0)
    # the hue in sixths of the circle
    hue = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    hue = hue + 6 * turn[:, None, None]
    distance = [(start + hue).remainder(6) for start in (5, 3, 1)]
    return torch.stack([value - chroma * torch.minimum(k, 4 - k).clamp(0.0, 1.0) for k in distance], dim=1)


def grey(images: Tensor) -> Tensor:
    """Colour images [B, 3, H, W] without their colours, still with three channels."""
    return brightness_of(images).expand(-1, 3, -1, -1)


def brightness_of(images: Tensor) -> Tensor:
    """[B, 3, H, W] -> [B, 1, H, W], the weighted sum of the channels."""
    red, green, blue = images.unbind(1)
    return (GREY_WEIGHTS[0] * red + GREY_WEIGHTS[1] * green + GREY_WEIGHTS[2] * blue)[:, None]


def blend(images: Tensor, others: Tensor, factor: Tensor) -> Tensor:
    """factor * images + (1 - factor) * others, cut to [0, 1]; factor [B] may exceed 1."""
    return torch.lerp(others.expand_as(images), images, factor[:, None, None, None]).clamp_(0.0, 1.0)
