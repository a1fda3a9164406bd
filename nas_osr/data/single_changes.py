"""RandAugment's changes by torchvision, one drawn for every image: those that share a draw are changed together.

torchvision draws once for a whole batch, and so does kornia 0.9, whose changes take longer besides. Here the draws are
ours, from the epoch's generator, and the changes torchvision's, group by group.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

Change = Callable[[Tensor, float], Tensor]  # images [b, C, H, W] in [0, 1], strength in [-1, 1] -> the same shape


def moved(
    images: Tensor, angle: float = 0.0, x: float = 0.0, y: float = 0.0, shear: tuple[float, float] = (0, 0)
) -> Tensor:
    """Turned by an angle, shifted by shares of the sides and sheared by angles, in degrees; black where uncovered."""
    shift = [round(x * images.shape[3]), round(y * images.shape[2])]
    return tv.affine(images, angle, shift, 1.0, list(shear), interpolation=InterpolationMode.BILINEAR)


def fewer_levels(images: Tensor, strength: float) -> Tensor:
    """8 bits a channel, down to 4."""
    return tv.posterize(images, 8 - round(4 * abs(strength)))


SHEAR, SHIFT, TURN, FACTOR = 16.7, 150 / 331, 30.0, 0.9  # at full strength: degrees (a slope of .3), share, degrees

GEOMETRY: tuple[Change, ...] = (
    lambda images, strength: moved(images, shear=(SHEAR * strength, 0)),
    lambda images, strength: moved(images, shear=(0, SHEAR * strength)),
    lambda images, strength: moved(images, x=SHIFT * strength),
    lambda images, strength: moved(images, y=SHIFT * strength),
    lambda images, strength: moved(images, angle=TURN * strength),
)
LEVELS: tuple[Change, ...] = (
    fewer_levels,
    lambda images, strength: tv.solarize(images, 1 - abs(strength)),
    lambda images, strength: tv.autocontrast(images),
    lambda images, strength: tv.equalize(images),
)
COLOURS: tuple[Change, ...] = (
    lambda images, strength: tv.adjust_brightness(images, 1 + FACTOR * strength),
    lambda images, strength: tv.adjust_saturation(images, 1 + FACTOR * strength),
    lambda images, strength: tv.adjust_contrast(images, 1 + FACTOR * strength),
    lambda images, strength: tv.adjust_sharpness(images, 1 + FACTOR * strength),
)
#: RandAugment's fourteen (Cubuk et al. 2020, section 3), the identity first.
RANDAUGMENT: tuple[Change, ...] = (lambda images, strength: images, *GEOMETRY, *LEVELS, *COLOURS)
#: Those of PixMix (Hendrycks et al. 2022, appendix), which leaves out what its test corruptions resemble.
PIXMIX: tuple[Change, ...] = (*GEOMETRY, *LEVELS)


def change_each(images: Tensor, changes: tuple[Change, ...], strength: float, generator: torch.Generator) -> Tensor:
    """One of the changes for each image, to one side or the other, drawn evenly.

    Args:
        images: [B, C, H, W] float32 in [0, 1].
        strength: in [0, 1].

    Returns:
        [B, C, H, W] in [0, 1]. On a GPU it waits once for the draws.
    """
    drawn = torch.randint(2 * len(changes), (len(images),), generator=generator, device=generator.device)
    order = drawn.argsort(stable=True)
    counts = drawn.bincount(minlength=2 * len(changes)).tolist()
    order = order.to(images.device)
    changed = torch.empty_like(images)
    for number, members in enumerate(order.split(counts)):
        if len(members):
            sign = 1 if number % 2 else -1
            changed[members] = changes[number // 2](images[members], sign * strength)
    return changed.clamp_(0.0, 1.0)
