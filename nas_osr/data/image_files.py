"""Image files: which ones a class folder holds, and decoding many of them at once."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from nas_osr.data.catalogue import Shape
from nas_osr.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_OTHER_IMAGES = (".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".heic")
_MODES = {1: "L", 3: "RGB"}
_CHUNK = 256
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def list_class_folders(folder: Path) -> list[str]:
    """Names of the class folders, sorted; hidden ones are left out."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def list_images(folder: Path) -> list[Path]:
    """The image files of one class folder, sorted by name; raises UserError on image formats that are not read."""
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    for name in names:
        if name.lower().endswith(_OTHER_IMAGES):
            raise UserError(f"{folder / name} is not in a format that is read: convert it to png, jpg or webp")
    return [folder / name for name in names if name.lower().endswith(SUFFIXES)]


def read_images(paths: Sequence[Path], shape: Shape, *, grey_too: bool = False, convert: bool = False) -> np.ndarray:
    """Decode files on all cores.

    Args:
        paths: n files; the order is kept.
        shape: (C, H, W) of every image.
        grey_too: accept grey images for C = 3 (the official Tiny ImageNet has some).
        convert: take 8-bit images of any mode and size: turned upright, converted to C channels, and scaled and
            centre-cropped to H x W.

    Returns:
        uint8 [n, C, H, W].

    Raises:
        UserError: a file is missing, damaged, of another size or mode; the message names it.
    """
    channels, height, width = shape
    images = np.empty((len(paths), height, width, channels), dtype=np.uint8)

    def read_chunk(start: int) -> None:
        for index in range(start, min(start + _CHUNK, len(paths))):
            images[index] = _read_image(paths[index], shape, grey_too, convert)

    with ThreadPoolExecutor(_num_cores()) as pool:
        for _ in pool.map(read_chunk, range(0, len(paths), _CHUNK)):
            pass
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _read_image(path: Path, shape: Shape, grey_too: bool, convert: bool) -> np.ndarray:
    """uint8 [H, W, C]"""
    channels, height, width = shape
    try:
        with Image.open(path) as opened:
            image: Image.Image = _converted(opened, shape, path) if convert else opened
            if image.size != (width, height):
                found = f"{image.size[0]}x{image.size[1]}"
                raise UserError(
                    f"{path} is {found} pixels, not {width}x{height}: resize it, or use the protocol folder"
                )
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
    except _DAMAGE as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read as an image ({reason}): replace or remove it") from error


def _converted(image: Image.Image, shape: Shape, path: Path) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # more than 8 bits: there is no one right way to squeeze them
        raise UserError(f"{path} has mode {image.mode}, more than 8 bits a channel: convert it to 8 bits")
    upright = ImageOps.exif_transpose(image)
    return ImageOps.fit(upright.convert(_MODES[shape[0]]), (shape[2], shape[1]), Image.Resampling.BILINEAR)


def _num_cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 16)
