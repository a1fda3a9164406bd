"""What can be wrong with a user's own operation or stem, found before anything starts: each is built and run once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from nas_osr.data.sources.base import Shape
from nas_osr.errors import UserError
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.encoder import check_image_shape
from nas_osr.search_spaces.operations import OPERATIONS, operation_class
from nas_osr.search_spaces.space import MIN_CHANNELS, Space
from nas_osr.search_spaces.stems import STEMS, stem_class

IMAGES = 2  # of a trial; BatchNorm wants more than one value of a channel
OPERATION_CONTRACT = "it is built as {}(channels_in, channels_out, stride) and divides the sides of a map by the stride"
STEM_CONTRACT = (
    "it is built as {}(image_channels, channels) and returns maps at 1/2 and, with `channels`, at 1/4 resolution"
)

Wanted = tuple[int | None, int, int]  # (C, H, W) of a map; None is any


def check_space(space: Space, image_shape: Shape) -> None:
    """Import the user's own classes that a space of theirs names, and try each in every form that a supernet has.

    The space is from the user's own command line or configuration. Torch's random state is left as it was.

    Raises:
        UserError: the image's sides do not fit, a class is missing, or one that is not ours cannot be built or gives
            another shape than it should.
    """
    stems = space.stems or (space.stem,)
    _check(space, stems, space.operations, image_shape, import_plugins=True)


def undivided(space: Space, parts: int) -> str | None:
    """Why a supernet of this space cannot compute one of so many parts of its channels; None where it can."""
    if space.narrows:
        return f"needs whole widths, got {', '.join(map(str, space.widths))} to choose from: give --widths 1"
    if space.channels % parts or space.channels // parts < MIN_CHANNELS:
        return f"must divide channels, {space.channels}, into parts of {MIN_CHANNELS} at least, got {parts}"
    return None


def check_partial(space: Space, parts: int, image_shape: Shape) -> None:
    """UserError unless a supernet of this space can compute one of so many parts of its channels."""
    if parts == 1:
        return
    reason = undivided(space, parts)
    if reason is not None:
        raise UserError(f"partial_channels {reason}")
    check_space(replace(space, channels=space.channels // parts), image_shape)


def check_architecture(architecture: Architecture, image_shape: Shape) -> None:
    """As `check_space`, for the stem and the chosen operations; imports nothing, since files name them, too."""
    chosen = dict.fromkeys(architecture.chosen_cells().values())
    _check(architecture.space, (architecture.stem,), chosen, image_shape, import_plugins=False)


def _check(
    space: Space, stems: Sequence[str], operations: Iterable[str], image_shape: Shape, *, import_plugins: bool
) -> None:
    check_image_shape(image_shape)
    image_channels, height, width = image_shape
    with torch.random.fork_rng(devices=[]):
        for name in stems:
            stem = stem_class(name, import_plugins=import_plugins)
            if name not in STEMS:
                # mixed ones have as many channels at half resolution as ours
                halved = space.channels // 2 if len(stems) > 1 else None
                wanted: list[Wanted] = [(halved, height // 2, width // 2), (space.channels, height // 4, width // 4)]
                arguments: tuple[int, ...] = (image_channels, space.channels)
                _try(f"stem {name!r}", STEM_CONTRACT, stem, arguments, image_shape, wanted)
        for name in operations:
            operation = operation_class(name, import_plugins=import_plugins)
            for scale in range(max(space.ends) + 1) if name not in OPERATIONS else ():
                channels, rows, columns = space.channels << scale, height // 4 >> scale, width // 4 >> scale
                for stride in (1, 2) if scale < max(space.ends) else (1,):
                    arguments = (channels, channels * stride, stride)
                    wanted = [(channels * stride, rows // stride, columns // stride)]
                    what = f"operation {name!r}"
                    _try(what, OPERATION_CONTRACT, operation, arguments, (channels, rows, columns), wanted)


def _try(
    what: str,
    contract: str,
    make: Callable[..., nn.Module],
    arguments: tuple[int, ...],
    shape: Shape,
    wanted: list[Wanted],
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
        asked = " and ".join(f"[{IMAGES}, {'any' if c is None else c}, {h}, {w}]" for c, h, w in wanted)
        raise UserError(f"{call} gives {made}, not {asked}: {contract.format(name)}")
    if not torch.equal(maps, before):
        raise UserError(f"{call} changes its input, which others read: its first layer must not work in place")


def _fits(result: Any, wanted: Wanted) -> bool:
    if not isinstance(result, Tensor) or result.dim() != 4:
        return False
    return all(wish in (None, side) for side, wish in zip(result.shape, (IMAGES, *wanted), strict=True))


def _text(value: Any) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else f"a {type(value).__name__}"
