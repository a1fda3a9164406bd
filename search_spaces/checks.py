"""What can be wrong with a user's own operation or stem, found before anything starts: each is built and run once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from nas_osr.errors import UserError
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.encoder import check_image_shape
from nas_osr.search_spaces.operations import OPERATIONS, operation_class
from nas_osr.search_spaces.space import Space
from nas_osr.search_spaces.stems import STEMS, stem_class

IMAGES = 2  # of a trial; BatchNorm wants more than one value of a channel
OPERATION = "it is built as {}(channels_in, channels_out, stride) and divides the sides of a map by the stride"
STEM = "it is built as {}(image_channels, channels) and returns maps at 1/2 and, with `channels`, at 1/4 resolution"

Shape = tuple[int | None, int, int]  # (C, H, W); None is any


def check_space(space: Space, image_shape: tuple[int, int, int]) -> None:
    """Import the user's own classes that a space of theirs names, and try each in every form that a supernet has.

    Torch's random state is left as it was.

    Args:
        space: from the user's own command line or configuration.
        image_shape: (C, H, W) of the images.

    Raises:
        UserError: the image's sides do not fit, a class is missing, or one that is not ours cannot be built or gives
            another shape than it should.
    """
    _check(space, space.operations, image_shape, import_plugins=True)


def check_architecture(architecture: Architecture, image_shape: tuple[int, int, int]) -> None:
    """As `check_space`, for the stem and the chosen operations; imports nothing, since files name them, too."""
    chosen = [operation for branch in architecture.branches.values() for operation in branch.operations]
    _check(architecture.space, dict.fromkeys(chosen), image_shape, import_plugins=False)


def _check(space: Space, operations: Iterable[str], image_shape: tuple[int, int, int], *, import_plugins: bool) -> None:
    check_image_shape(image_shape)
    image_channels, height, width = image_shape
    with torch.random.fork_rng(devices=[]):
        make_stem = stem_class(space.stem, import_plugins=import_plugins)
        if space.stem not in STEMS:
            maps: list[Shape] = [(None, height // 2, width // 2), (space.channels, height // 4, width // 4)]
            _try(f"stem {space.stem!r}", STEM, make_stem, (image_channels, space.channels), image_shape, maps)
        for name in operations:
            make = operation_class(name, import_plugins=import_plugins)
            if name in OPERATIONS:
                continue
            for scale in range(max(space.branches) + 1):
                channels, rows, columns = space.channels << scale, height // 4 >> scale, width // 4 >> scale
                for stride in (1, 2) if scale < max(space.branches) else (1,):
                    wide = channels * stride
                    maps = [(wide, rows // stride, columns // stride)]
                    shape = (channels, rows, columns)
                    _try(f"operation {name!r}", OPERATION, make, (channels, wide, stride), shape, maps)


def _try(
    what: str,
    contract: str,
    make: Callable[..., nn.Module],
    arguments: tuple[int, ...],
    shape: tuple[int, int, int],
    wanted: list[Shape],
) -> None:
    """UserError unless `make(*arguments)` gives maps of the wanted shapes for maps of `shape`, and leaves these be."""
    name = getattr(make, "__name__", what)
    maps = torch.rand(IMAGES, *shape) - 0.5
    before = maps.clone()
    call = f"{what}: {name}({', '.join(map(str, arguments))}) on maps {_text(maps)}"
    try:
        found: Any = make(*arguments)(maps)
    except Exception as error:  # whatever a user's own code raises
        raise UserError(f"{call}: {type(error).__name__}: {error}; {contract.format(name)}") from error
    results = list(found) if len(wanted) > 1 and isinstance(found, tuple | list) else [found]
    if len(results) != len(wanted) or not all(map(_fits, results, wanted)):
        made = " and ".join(map(_text, results))
        expected = " and ".join(f"[{IMAGES}, {'any' if c is None else c}, {h}, {w}]" for c, h, w in wanted)
        raise UserError(f"{call} gives {made}, not {expected}: {contract.format(name)}")
    if not torch.equal(maps, before):
        raise UserError(f"{call} changes its input, which others read: its first layer must not work in place")


def _fits(result: Any, wanted: Shape) -> bool:
    if not isinstance(result, Tensor) or result.dim() != 4 or len(result) != IMAGES:
        return False
    return all(side in (None, found) for found, side in zip(result.shape[1:], wanted, strict=True))


def _text(value: Any) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else f"a {type(value).__name__}"
