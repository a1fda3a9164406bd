"""Image files: decoding many of them at once."""

from __future__ import annotations

import os
import stat
import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from nas_osr.errors import UserError

_MODES = {1: "L", 3: "RGB"}
_CHUNK = 256
# Known by their content, whatever the name says; Pillow would run other programs for some of its formats.
FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 1 << 26
_MANY_PIXELS = 1 << 24  # so large ones are decoded one at a time, for the memory


def read_images(
    paths: Sequence[Path], shape: tuple[int, int, int], *, grey_too: bool = False, convert: bool = False
) -> np.ndarray:
    """Decode files on all cores.

    Args:
        paths: n files; the order is kept.
        shape: (C, H, W) of every image.
        grey_too: accept grey images for C = 3 (the official Tiny ImageNet has some).
        convert: take 8-bit images of any mode, of up to 67 million pixels: turned upright, converted to C channels, and
            scaled and centre-cropped to H x W. Transparency is dropped, the colour under it kept; of an animation the
            first picture counts, of 16-bit colour the upper half of the bits.

    Returns:
        uint8 [n, C, H, W].

    Raises:
        UserError: a file is missing, damaged, of another size or mode or too large; the message names it.
    """
    channels, height, width = shape
    images = np.empty((len(paths), height, width, channels), dtype=np.uint8)

    def read_chunk(start: int) -> None:
        for index in range(start, min(start + _CHUNK, len(paths))):
            images[index] = _read_image(paths[index], shape, grey_too, convert, large)

    large = threading.Lock()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with warnings.catch_warnings(), ThreadPoolExecutor(min(cores, 16)) as pool:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # refused below, with the file's name
        for _ in pool.map(read_chunk, range(0, len(paths), _CHUNK)):
            pass
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _read_image(
    path: Path, shape: tuple[int, int, int], grey_too: bool, convert: bool, large: threading.Lock
) -> np.ndarray:
    """uint8 [H, W, C]"""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
            raise UserError(f"{path} is not a file: remove it")
        with Image.open(path, formats=FORMATS) as opened:
            pixels = opened.size[0] * opened.size[1]
            if pixels > MAX_PIXELS:
                raise UserError(f"{path} has {pixels:,} pixels, more than {MAX_PIXELS:,}: scale it down")
            with large if pixels > _MANY_PIXELS else nullcontext():
                return _decode(opened, path, shape, grey_too, convert)
    except UserError:
        raise
    except Exception as error:  # Pillow raises many kinds on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} cannot be read as an image ({reason}): replace or remove it") from error


def _decode(opened: Image.Image, path: Path, shape: tuple[int, int, int], grey_too: bool, convert: bool) -> np.ndarray:
    """uint8 [H, W, C]"""
    channels, height, width = shape
    image = opened
    if convert:
        if opened.mode.startswith(("I", "F")):  # more than 8 bits: there is no one right way to squeeze them
            raise UserError(f"{path} has mode {opened.mode}, more than 8 bits a channel: convert it to 8 bits")
        upright = ImageOps.exif_transpose(opened).convert(_MODES[channels])
        image = ImageOps.fit(upright, (width, height), Image.Resampling.BILINEAR)
    if image.size != (width, height):
        found = f"{image.size[0]}x{image.size[1]}"
        raise UserError(f"{path} is {found} pixels, not {width}x{height}: resize it, or use the protocol folder")
    if image.mode == "L" and channels == 3 and grey_too:
        image = image.convert("RGB")
    if image.mode == "RGB" and channels == 1 and opened.format == "WEBP":  # webp knows no grey mode
        pixels = np.asarray(image)
        if (pixels == pixels[:, :, :1]).all():
            return pixels[:, :, :1]
    if image.mode != _MODES[channels]:
        wanted = "8-bit grey (mode L)" if channels == 1 else "8-bit colour (mode RGB)"
        raise UserError(f"{path} has mode {image.mode}, not {wanted}: convert it, or use the protocol folder")
    return np.asarray(image).reshape(height, width, channels)
