"""From whatever a user has, files, pictures, arrays or tensors, to the images that a network takes."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nas_osr.data.sources.image_files import fit_picture, open_picture
from nas_osr.data.sources.listing import PassedOver, list_images
from nas_osr.data.sources.shapes import fit_shape
from nas_osr.errors import UserError
from nas_osr.files.paths import user_path
from nas_osr.retrain.model import ModelInputs

READERS = 4  # files at once: each may be large


def make_images(value: Any, inputs: ModelInputs) -> Tensor:
    """uint8 [n, C, H, W], as the network was trained on, n >= 1.

    An image of the network's own height and width is taken as it is. Any other is turned upright, scaled and
    centre-cropped to the size of the training images' files, and brought to the network's size as these were.

    Args:
        value: one of the following, or a list of them: a path, a PIL image, or an array or tensor of one image
            ([H, W], [H, W, C] or [C, H, W]) or of several ([n, H, W], [n, H, W, C] or [n, C, H, W]). Values are whole
            numbers in 0..255 or floats in [0, 1], which are rounded to 8 bits. The axis of channels is the one of
            length 1 or 3, the first such after n, and C need not be the network's. Three axes [3, H, W] are one image
            for a network of coloured ones, and three for one of grey ones.

    Raises:
        UserError: a file cannot be read, or an array is of another shape or has other values; or there is no image.
    """
    if isinstance(value, str | Path):
        return read_picture(user_path(value), inputs)[None]
    if isinstance(value, Image.Image):
        return fit_image(value, inputs)[None]
    if isinstance(value, list | tuple) and value and not all(isinstance(item, int | float) for item in value):
        return torch.cat([make_images(item, inputs) for item in value])
    array = eight_bits(value)
    if array.size == 0:
        raise UserError("there are no images")
    images = split_axes(array, inputs.image_shape[0])
    if images.shape[2:] in (inputs.image_shape[1:], (inputs.file_shape or inputs.image_shape)[1:]):
        return fit_shape(torch.from_numpy(images), inputs.image_shape)
    pictures = images.transpose(0, 2, 3, 1)
    return torch.stack([fit_image(Image.fromarray(one.squeeze()), inputs) for one in pictures])


def eight_bits(value: Any) -> np.ndarray:
    """An array or tensor as uint8, from whole numbers in 0..255 or floats in [0, 1]. Raises UserError."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value  # NumPy knows no bfloat16
    array = np.asarray(value)
    if array.dtype.kind not in "uif":
        raise UserError(f"images must be whole numbers in 0..255 or floats in [0, 1], not of type {array.dtype}")
    if array.dtype == np.uint8 or array.size == 0:
        return array.astype(np.uint8)
    largest = 1 if array.dtype.kind == "f" else 255
    low, high = float(array.min()), float(array.max())
    if not 0 <= low <= high <= largest:
        raise UserError(f"images of type {array.dtype} must have values from 0 to {largest}, got {low:g} to {high:g}")
    return (np.rint(array * 255) if largest == 1 else array).astype(np.uint8)


def split_axes(array: np.ndarray, channels: int) -> np.ndarray:
    """An array of one or several images as [n, C, H, W]; `channels` is the network's C. Raises UserError."""
    if array.ndim == 2:
        return array[None, None]
    if array.ndim == 3:
        if array.shape[2] in (1, 3) or (array.shape[0] == 3 == channels):
            return split_axes(array[None], channels)
        return array[:, None]
    if array.ndim == 4 and array.shape[1] in (1, 3):
        return array
    if array.ndim == 4 and array.shape[3] in (1, 3):
        return np.ascontiguousarray(array.transpose(0, 3, 1, 2))
    raise UserError(
        f"images of shape {list(array.shape)}: expected [n, H, W], [n, H, W, C] or [n, C, H, W], with C 1 or 3"
    )


def read_picture(path: Path, inputs: ModelInputs) -> Tensor:
    """uint8 [C, H, W] of an image file. Raises UserError."""
    with open_picture(path) as opened:
        return fit_image(opened, inputs, path)


def fit_image(picture: Image.Image, inputs: ModelInputs, path: Path = Path("a picture")) -> Tensor:
    """uint8 [C, H, W] of a picture of any size; see `make_images`. `path` is for messages. Raises UserError."""
    height, width = inputs.image_shape[1:]
    as_it_is = picture.size == (width, height)
    target = inputs.image_shape if as_it_is or inputs.file_shape is None else inputs.file_shape
    fitted = np.array(fit_picture(picture, target, path))
    return fit_shape(torch.from_numpy(fitted).permute(2, 0, 1)[None], inputs.image_shape)[0]


def try_pictures(paths: Sequence[Path], inputs: ModelInputs) -> list[Tensor | UserError]:
    """`read_picture` of each file, several at once; what is wrong with a file in its place."""

    def attempt(path: Path) -> Tensor | UserError:
        try:
            return read_picture(path, inputs)
        except UserError as error:
            return error

    with warnings.catch_warnings(), ThreadPoolExecutor(READERS) as pool:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # refused with the file's name
        return list(pool.map(attempt, paths))


class PictureFiles:
    """The files that paths name, and the image files in and below each folder among them, in the order of their names.

    Attributes:
        passed_over: what else the folders had, when all have been listed.
    """

    def __init__(self, paths: Iterable[str | Path]) -> None:
        self.paths, self.passed_over = paths, PassedOver()

    def __iter__(self) -> Iterator[Path]:
        """Raises UserError: a folder cannot be listed."""
        for path in map(user_path, self.paths):
            yield from list_images(path, self.passed_over) if path.is_dir() else [path]
