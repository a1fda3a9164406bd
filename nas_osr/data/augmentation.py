"""Random augmentation of whole batches: on their device, different for every image, reproducible from a generator.

Crops, flips and rotations are written here, since torchvision draws once for a batch, and kornia takes 15 times as
long: up to a tenth of a whole run with a fast network (docs/reference/recipes.md#augmentation).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from nas_osr.configuration import Checked
from nas_osr.data.protocols import Protocol
from nas_osr.errors import UserError
from nas_osr.option_docs import NOT_NEGATIVE, POSITIVE, SHARE, Range
from nas_osr.plugins import check_name, load
from nas_osr.seeds import make_generator

if TYPE_CHECKING:
    import torch
    from torch import Tensor

RECIPES = ("none", "search", "crop_flip")  # the first alone; the others move an image's pixels
CHANGES = {  # what else is in a list
    "randaugment": "nas_osr.data.changes:randaugment",
    "cutout": "nas_osr.data.changes:cutout",
    "jitter": "nas_osr.data.changes:jitter",
    "pixmix": "nas_osr.data.changes:mix_with_fractals",
}
OWN_CHANGE = "nas_osr.data.changes:own_change"  # where the function of another name is called
Flips = Literal["random", "alternating"]
Border = Literal["black", "reflect"]


@dataclass(frozen=True, kw_only=True)
class Magnitudes(Checked):
    """How strong each augmentation is, of a recipe and of what is done to a batch alike.

    Attributes:
        rotation: largest angle of `search` in degrees, either way.
        padding: pixels by which `crop_flip` shifts an image at most, each way.
        border: what `crop_flip` shows beyond an image's edge: `black`, or the image again, `reflect`ed.
        changes: how many `randaugment` makes to each image.
        magnitude: how strong those of `randaugment` and `pixmix` are, of 30.
        cutout: sides in pixels of the square that `cutout` takes out.
        jitter: how far `jitter` varies brightness, contrast and saturation, and hue a quarter of it.
        rounds: how often `pixmix` mixes an image, at most.
        blend: how much of an image stays then: the larger, the more.
        flips: which images are mirrored: `random` ones, or each in every other epoch (`alternating`, see
            `flipped_now`; then `augment` is given images that are mirrored already).
    """

    rotation: Annotated[float, NOT_NEGATIVE] = 10.0
    padding: Annotated[int, Range(0, 15)] = 4  # the smallest images are of 16 pixels
    border: Border = "black"
    changes: Annotated[int, Range(1, 14)] = 1
    magnitude: Annotated[float, Range(0, 30)] = 6.0
    cutout: Annotated[int, POSITIVE] = 8
    jitter: Annotated[float, SHARE] = 0.4
    rounds: Annotated[int, Range(1, 100)] = 4
    blend: Annotated[float, POSITIVE] = 3.0
    flips: Flips = "random"


@dataclass(frozen=True)
class AugmentationConfig(Magnitudes):
    """How training images are varied.

    Attributes:
        recipe: "none", or what is done in turn, as in "crop_flip,cutout": "search" (NAS-OSR's: random resized crop,
            flip, rotation, in one affine resampling), "crop_flip" (pad, random crop, flip: every pixel is a copy), some
            of `CHANGES`, or functions of the user's own by dotted path, see `nas_osr.data.changes.own_change`.
        flip: mirror half of the images from left to right.
        scale: search: range of the cropped share of the area, in (0, 1].
        aspect: search: the crop's width/height is log-uniform in [1/aspect, aspect], as far as it fits; at least 1.
    """

    recipe: str = "search"
    flip: bool = True
    scale: tuple[float, float] = (0.8, 1.0)
    aspect: float = 4 / 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_augmentation(self.recipe, where="augmentation: ")
        check_crops(self, where="augmentation: ")

    @property
    def names(self) -> tuple[str, ...]:
        """What is done, in turn."""
        return () if self.recipe == "none" else split_names(self.recipe)

    @property
    def own(self) -> tuple[str, ...]:
        """The functions of the user's own among them."""
        return tuple(name for name in self.names if name not in RECIPES and name not in CHANGES)

    @property
    def alternates(self) -> bool:
        """Whether images are to be mirrored by `flipped_now` before they are augmented."""
        return self.flip and self.flips == "alternating" and not {"search", "crop_flip"}.isdisjoint(self.names)

    @property
    def mirrors(self) -> bool:
        """Whether `augment` mirrors images."""
        return self.flip and self.flips == "random"


def split_names(text: str) -> tuple[str, ...]:
    """The names in a list such as "crop_flip,cutout"."""
    return tuple(name.strip() for name in text.split(","))


def check_augmentation(text: str, where: str) -> None:
    """UserError, beginning with `where`, unless a list names what can be done in turn. Nothing is imported."""
    names = split_names(text)
    for name in names:
        check_name("augmentation", name, (*RECIPES, *CHANGES), where)
    if len(set(names)) < len(names) or ("none" in names and len(names) > 1):
        raise UserError(f"{where}augmentation {text!r}: name each once, and none alone")


def is_range(value: Any) -> bool:
    """Whether this is a pair of rising numbers in (0, 1]."""
    if not isinstance(value, tuple) or len(value) != 2:
        return False
    return all(isinstance(end, (int, float)) for end in value) and 0 < value[0] <= value[1] <= 1


def check_crops(config: Any, where: str) -> None:
    """UserError, beginning with `where`, unless `scale` and `aspect` say how large a crop may be."""
    if not is_range(config.scale):
        raise UserError(f"{where}scale must be two rising numbers in (0, 1], got {config.scale}")
    if not config.aspect >= 1.0:
        raise UserError(f"{where}aspect must be at least 1, got {config.aspect}")


def default_augmentation(protocol: Protocol, recipe: str = "search", **magnitudes: Any) -> AugmentationConfig:
    """The recipe with its usual magnitudes, but for those that are given; digits are never mirrored."""
    return AugmentationConfig(recipe, flip=protocol.mirrors, **magnitudes)


def augment(images: Tensor, config: AugmentationConfig | str, generator: torch.Generator) -> Tensor:
    """Augment a batch.

    Args:
        images: float [B, C, H, W] in [0, 1].
        config: an `AugmentationConfig`, or the name of a recipe with its default magnitudes.
        generator: the only source of randomness. It may live on another device than the images; a CPU generator gives
            the same augmentation on every device.

    Returns:
        [B, C, H, W], still in [0, 1], on the images' device.
    """
    config = AugmentationConfig(config) if isinstance(config, str) else config
    if not len(images):
        return images
    for name in config.names:
        if name in RECIPES:
            images = (_crop_flip if name == "crop_flip" else _search)(images, config, generator)
        elif name in CHANGES:
            images = load(CHANGES[name])(images, config, generator)
        else:
            images = load(OWN_CHANGE)(images, name, generator)
    return images


def flipped_now(count: int, seed: int, epoch: int) -> Tensor:
    """Which of all `count` training images are mirrored in an epoch (from 0): [count] bool, on the CPU.

    A random half in the first, the others in the second, and so on in turn: in every two epochs each image is seen both
    ways (Jordan 2024, airbench94), where chance shows a quarter of them twice the same way and never the other.
    """
    import torch

    first = torch.rand(count, generator=make_generator(seed, "flips")) < 0.5
    return first ^ bool(epoch % 2)


def _uniform(count: int, images: Tensor, generator: torch.Generator) -> Tensor:
    """[count, B] uniform in [0, 1) on the images' device."""
    import torch

    drawn = torch.rand(count, len(images), generator=generator, device=generator.device)
    return drawn.to(images.device, non_blocking=True)


def _search(images: Tensor, config: AugmentationConfig, generator: torch.Generator) -> Tensor:
    """Crop, mirror and rotate in one resampling; what a rotation uncovers is the image around the crop, then black."""
    import torch
    import torch.nn.functional as F

    height, width = images.shape[-2:]
    area, aspect, shift_x, shift_y, mirrored, angle = _uniform(6, images, generator)
    crop_w, crop_h = crop_sides(area, aspect, config)
    # Its centre, in grid_sample's coordinates, where the image spans [-1, 1].
    centre_x, centre_y = (1 - crop_w) * (2 * shift_x - 1), (1 - crop_h) * (2 * shift_y - 1)
    sign = torch.where(mirrored < 0.5, -1.0, 1.0) if config.mirrors else torch.ones_like(mirrored)
    radians = math.radians(config.rotation) * (2 * angle - 1)
    cos, sin = radians.cos(), radians.sin()
    # Where each output pixel reads: rotated (in pixels, so that angles hold in oblong images), mirrored, in the crop.
    x, y = _pixel_centres(width, images), _pixel_centres(height, images)
    read_x = _affine(sign * crop_w * cos, -sign * crop_w * sin * (height / width), centre_x, x, y)
    read_y = _affine(crop_h * sin * (width / height), crop_h * cos, centre_y, x, y)
    grid = torch.stack([read_x, read_y], dim=-1).to(images.dtype)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False).clamp_(0.0, 1.0)


def crop_sides(area: Tensor, aspect: Tensor, config: Any) -> tuple[Tensor, Tensor]:
    """Width and height [B], as shares of a side, of crops from two numbers [B] each that are uniform in [0, 1).

    The share of the area is uniform in the config's `scale`. The aspect ratio is log-uniform up to its `aspect`, either
    way, narrowed to what fits into the image.
    """
    area = config.scale[0] + (config.scale[1] - config.scale[0]) * area
    limit = area.log().neg().clamp(max=math.log(config.aspect))
    ratio = (limit * (2 * aspect - 1)).exp()
    return (area * ratio).sqrt(), (area / ratio).sqrt()


def _pixel_centres(count: int, images: Tensor) -> Tensor:
    """[count] positions of pixel centres along a side that spans [-1, 1]."""
    import torch

    return (2 * torch.arange(count, device=images.device) + 1) / count - 1


def _affine(by_x: Tensor, by_y: Tensor, offset: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """[B], [B], [B], [W], [H] -> by_x * x + by_y * y + offset, [B, H, W]"""
    return (by_x[:, None] * x + offset[:, None])[:, None, :] + (by_y[:, None] * y)[:, :, None]


def _crop_flip(images: Tensor, config: AugmentationConfig, generator: torch.Generator) -> Tensor:
    """Pad, cut a window of the old size at random, mirror: one gather, no arithmetic on pixels."""
    import torch
    import torch.nn.functional as F

    count, channels, height, width = images.shape
    pad = config.padding
    draws = _uniform(3, images, generator)
    top, left = (draws[:2] * (2 * pad + 1)).long().unbind()
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device).expand(count, width)
    if config.mirrors:
        columns = torch.where(draws[2, :, None] < 0.5, width - 1 - columns, columns)
    columns = left[:, None] + columns
    if config.border == "reflect":
        rows, columns, pad = _reflect(rows - pad, height), _reflect(columns - pad, width), 0
    index = (rows[:, :, None] * (width + 2 * pad) + columns[:, None, :]).view(count, 1, height * width)
    padded = F.pad(images, (pad, pad, pad, pad)).flatten(2)
    return padded.gather(2, index.expand(-1, channels, -1)).view(count, channels, height, width)


def _reflect(places: Tensor, side: int) -> Tensor:
    """Places along a side of pixels 0..side-1; those beyond an end, by less than a side, as far inside of it."""
    return (side - 1 - (side - 1 - places.abs()).abs()).abs()
