"""Image files: decoding many of them at once."""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import stat
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from nas_osr.errors import UserError

_MODES = {1: "L", 3: "RGB"}
_CHUNK = 256
_LISTED = 10  # files in a message
# Known by their content, whatever the name says; Pillow would run other programs for some of its formats.
FORMATS = ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF"]
_HEIF = importlib.util.find_spec("pillow_heif") is not None
MAX_PIXELS = 1 << 26
_MANY_PIXELS = 1 << 24  # so large ones are decoded one at a time, for the memory

if _HEIF:  # an extra of its own: Pillow reads no HEIC
    from pillow_heif import register_heif_opener

    register_heif_opener()
    FORMATS.append("HEIF")
logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)  # it logs what it raises as well
Image.init()
FORMATS = [name for name in FORMATS if name in Image.OPEN]


class UnreadableImage(UserError):
    """A file that gives no image; `reason` is for counting, e.g. "damaged"."""

    def __init__(self, path: Path, reason: str, what: str) -> None:
        super().__init__(f"{path} {what}")
        self.path, self.reason = path, reason


def read_images(
    paths: Sequence[Path], shape: tuple[int, int, int], *, grey_too: bool = False, convert: bool = False
) -> np.ndarray:
    """Decode files on all cores, 8 bits a channel; `to_eight_bits` says how deeper ones are brought there.

    Args:
        paths: n files; the order is kept.
        shape: (C, H, W) of every image.
        grey_too: accept grey images for C = 3 (the official Tiny ImageNet has some).
        convert: take images of any mode and size, of up to 67 million pixels: turned upright, converted to C channels,
            and scaled and centre-cropped to H x W. Otherwise they must have this size and be grey or coloured as C
            says. Transparency is dropped, the colour under it kept; of an animation the first picture counts.

    Returns:
        uint8 [n, C, H, W].

    Raises:
        UserError: files are missing, damaged, of another size or mode or too large; the message names up to ten.
    """
    images, unreadable = try_images(paths, shape, grey_too=grey_too, convert=convert)
    refuse_unreadable(list(unreadable.values()))
    return images


def try_images(
    paths: Sequence[Path], shape: tuple[int, int, int], *, grey_too: bool = False, convert: bool = False
) -> tuple[np.ndarray, dict[int, UnreadableImage]]:
    """The same, with what is wrong by index, in order; the images of these are undefined."""
    channels, height, width = shape
    images = np.empty((len(paths), height, width, channels), dtype=np.uint8)
    unreadable = _decode_all(paths, shape, grey_too, convert, images.__setitem__)
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)), unreadable


def find_unreadable(
    paths: Sequence[Path], shape: tuple[int, int, int], *, grey_too: bool = False, convert: bool = False
) -> dict[int, UnreadableImage]:
    """What is wrong with files, by index; their images are decoded and not kept."""
    return _decode_all(paths, shape, grey_too, convert, lambda index, image: None)


def refuse_unreadable(errors: Sequence[UnreadableImage]) -> None:
    """UserError that names all of these files, up to ten; nothing if there are none."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        folder = Path(os.path.commonpath([error.path for error in errors]))
        shown = ", ".join(f"{error.path.relative_to(folder)} ({error.reason})" for error in errors[:_LISTED])
        more = f" and {len(errors) - _LISTED} more" if len(errors) > _LISTED else ""
        raise UserError(
            f"{folder}: {len(errors)} files cannot be read as they should: {shown}{more}: "
            "replace or remove them, or pass them over with --skip_broken"
        )


def _decode_all(
    paths: Sequence[Path],
    shape: tuple[int, int, int],
    grey_too: bool,
    convert: bool,
    keep: Callable[[int, np.ndarray], None],
) -> dict[int, UnreadableImage]:
    """Hand every image, uint8 [H, W, C], to `keep` with its index; what is wrong with the others, in order."""
    unreadable: dict[int, UnreadableImage] = {}
    large = threading.Lock()

    def read_chunk(start: int) -> None:
        for index in range(start, min(start + _CHUNK, len(paths))):
            try:
                keep(index, _read_image(paths[index], shape, grey_too, convert, large))
            except UnreadableImage as error:
                unreadable[index] = error

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with warnings.catch_warnings(), ThreadPoolExecutor(min(cores, 16)) as pool:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # refused below, with the file's name
        for _ in pool.map(read_chunk, range(0, len(paths), _CHUNK)):
            pass
    return dict(sorted(unreadable.items()))


@contextmanager
def open_picture(path: Path) -> Iterator[Image.Image]:
    """The picture in a file, its header read and its size looked at. Raises UserError, also where decoding it fails."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
            raise UnreadableImage(path, "no file", "is not a file: remove it")
        with Image.open(path, formats=FORMATS) as opened:
            pixels = opened.size[0] * opened.size[1]
            if pixels > MAX_PIXELS:
                what = f"has {pixels:,} pixels, more than {MAX_PIXELS:,}: scale it down"
                raise UnreadableImage(path, "too large", what)
            yield opened
    except UserError:
        raise
    except Exception as error:  # Pillow raises many kinds on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        mend = "replace or remove it"
        if path.suffix.lower() in (".heic", ".heif") and not _HEIF:
            mend = "HEIC needs `pip install 'nas-osr[heic]'`, or convert it"
        raise UnreadableImage(path, "damaged", f"cannot be read as an image ({reason}): {mend}") from error


def to_eight_bits(image: Image.Image, kind: str | None, path: Path) -> Image.Image:
    """An image from a file of this format in mode L, RGB, RGBA or another of 8 bits a channel.

    Of 16 bits the upper eight count (65535 becomes 255, 256 becomes 1), as they do in Pillow for colour; palettes give
    their colours. Raises UserError on floating point and 32 bits, where nothing says which value is white.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and kind in ("PNG", "PPM")):
        return Image.fromarray((np.asarray(image).astype(np.int32) >> 8).astype(np.uint8))
    if image.mode.startswith(("I", "F")):
        what = f"has mode {image.mode}, where nothing says what is white: convert it to 8 or 16 bits"
        raise UnreadableImage(path, "of another mode", what)
    if image.mode in ("P", "PA"):
        return image.convert("RGBA" if "transparency" in image.info or image.mode == "PA" else "RGB")
    return image.convert("L") if image.mode == "1" else image


def fit_picture(picture: Image.Image, shape: tuple[int, int, int], path: Path) -> np.ndarray:
    """uint8 [H, W, C] of a picture of any size and mode: upright, of C channels, scaled and centre-cropped to H x W.

    `path` is for messages. Raises UserError as `to_eight_bits` does.
    """
    channels, height, width = shape
    upright = to_eight_bits(ImageOps.exif_transpose(picture), picture.format, path).convert(_MODES[channels])
    fitted = ImageOps.fit(upright, (width, height), Image.Resampling.BILINEAR)
    return np.asarray(fitted).reshape(height, width, channels)


def _read_image(
    path: Path, shape: tuple[int, int, int], grey_too: bool, convert: bool, large: threading.Lock
) -> np.ndarray:
    """uint8 [H, W, C]"""
    with open_picture(path) as opened, large if math.prod(opened.size) > _MANY_PIXELS else nullcontext():
        return fit_picture(opened, shape, path) if convert else _decode(opened, path, shape, grey_too)


def _decode(opened: Image.Image, path: Path, shape: tuple[int, int, int], grey_too: bool) -> np.ndarray:
    """uint8 [H, W, C]"""
    channels, height, width = shape
    image = to_eight_bits(opened, opened.format, path)
    if image.mode in ("LA", "RGBA"):
        image = image.convert(image.mode[:-1])
    if image.size != (width, height):
        found = f"{image.size[0]}x{image.size[1]}"
        what = f"is {found} pixels, not {width}x{height}: resize it, or use the protocol folder"
        raise UnreadableImage(path, "of another size", what)
    if image.mode == "L" and channels == 3 and grey_too:
        image = image.convert("RGB")
    pixels = np.asarray(image)
    if image.mode == "RGB" and channels == 1 and (pixels == pixels[:, :, :1]).all():  # some formats know no grey mode
        return pixels[:, :, :1]
    if image.mode != _MODES[channels]:
        wanted = "8-bit grey (mode L)" if channels == 1 else "8-bit colour (mode RGB)"
        what = f"has mode {opened.mode}, not {wanted}: convert it, or use the protocol folder"
        raise UnreadableImage(path, "of another mode", what)
    return pixels.reshape(height, width, channels)
