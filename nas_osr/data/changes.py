"""What an augmentation may do to batches of images besides moving them, by name: each image on its own."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nas_osr.data.augmentation import CHANGES, RECIPES, AugmentationConfig
from nas_osr.data.pixmix import pixmix
from nas_osr.data.precision import outside_autocast
from nas_osr.data.single_changes import RANDAUGMENT, change_each
from nas_osr.data.views import ViewConfig, vary_colours
from nas_osr.errors import UserError
from nas_osr.plugins import import_plugin

STRONGEST = 30  # RandAugment's magnitudes are of so many

OwnChange = Callable[[Tensor, torch.Generator], Tensor]


@outside_autocast
def randaugment(images: Tensor, config: AugmentationConfig, generator: torch.Generator) -> Tensor:
    """RandAugment (Cubuk et al. 2020): `changes` times one of fourteen changes of one strength, drawn evenly."""
    for _ in range(config.changes):
        images = change_each(images, RANDAUGMENT, config.magnitude / STRONGEST, generator)
    return images


@outside_autocast
def cutout(images: Tensor, config: AugmentationConfig, generator: torch.Generator) -> Tensor:
    """Cutout (DeVries & Taylor 2017): a square around a random pixel, cut at the edges, in the image's mean colour."""
    height, width = images.shape[2:]
    places = torch.rand(2, len(images), generator=generator, device=generator.device).to(images.device)
    inside = []
    for place, side in zip(places, (height, width), strict=True):
        first = (place * side).long()[:, None] - config.cutout // 2
        pixels = torch.arange(side, device=images.device)
        inside.append((pixels >= first) & (pixels < first + config.cutout))
    square = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return torch.where(square, images.mean(dim=(2, 3), keepdim=True), images)


@outside_autocast
def jitter(images: Tensor, config: AugmentationConfig, generator: torch.Generator) -> Tensor:
    """Other brightness, contrast, saturation and hue, in one random order for the batch; as SimCLR varies colours."""
    strength = config.jitter
    draws = torch.rand(5, len(images), generator=generator, device=generator.device).to(images.device)
    order = torch.randperm(4, generator=generator, device=generator.device).tolist()
    view = ViewConfig(
        brightness=strength, contrast=strength, saturation=strength, hue=strength / 4, jitter_probability=1.0
    )
    return vary_colours(images, draws, order, view).clamp_(0.0, 1.0)


@outside_autocast
def mix_with_fractals(images: Tensor, config: AugmentationConfig, generator: torch.Generator) -> Tensor:
    """See `pixmix`."""
    return pixmix(images, config.rounds, config.blend, config.magnitude / STRONGEST, generator)


def find_change(name: str) -> OwnChange | None:
    """The user's own function of this dotted path; None for a name that is known.

    Raises:
        UserError: there is none, or it cannot be called with images and a generator.
    """
    if name in RECIPES or name in CHANGES:
        return None
    module, _, attribute = name.rpartition(".")
    import_plugin(module)
    found: Any = getattr(importlib.import_module(module), attribute, None)
    if not callable(found):
        raise UserError(f"augmentation {name!r}: {module} has no function {attribute}")
    try:
        parameters = inspect.signature(found)
    except (TypeError, ValueError):  # of C, which does not say
        return found  # type: ignore[no-any-return]
    try:
        parameters.bind(None, None)
    except TypeError as error:
        raise UserError(
            f"augmentation {name!r} takes {parameters}, and is called with images and a generator: {error}"
        ) from error
    return found  # type: ignore[no-any-return]


@outside_autocast
def own_change(images: Tensor, name: str, generator: torch.Generator) -> Tensor:
    """What the user's own function makes of images [B, C, H, W] float32 in [0, 1], cut to [0, 1].

    It is called with the images, on their device, and with the epoch's generator, from which everything random in it
    should come: equal runs are equal then, and a resumed one goes on as it was.
    """
    function = find_change(name)
    assert function is not None
    changed = function(images, generator)
    if not isinstance(changed, Tensor) or changed.shape != images.shape or changed.dtype != images.dtype:
        gives = f"{list(changed.shape)} {changed.dtype}" if isinstance(changed, Tensor) else type(changed).__name__
        raise UserError(f"augmentation {name!r} gives {gives} for images {list(images.shape)} {images.dtype}")
    return changed.clamp(0.0, 1.0)
