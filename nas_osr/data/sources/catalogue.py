"""The image sources that ship by name: their classes, sizes, normalisation, and the published class splits."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Source:
    """One set of labelled images.

    Attributes:
        name: e.g. "cifar10".
        file_shape: (C, H, W) of the images in their files.
        image_shape: (C, H, W) that the toolkit works with, H and W multiples of 16.
        mean, std: per channel, of the training images at `image_shape`, in [0, 1] units.
        counts: official number of images by part, {"train": ..., "test": ...}.
        megabytes: size of the download.
    """

    name: str
    file_shape: Shape
    image_shape: Shape
    mean: tuple[float, ...]
    std: tuple[float, ...]
    counts: dict[str, int]
    megabytes: int

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in the order of the official label numbers."""
        return tuple(_class_names()[self.name])


def _padded(mean: float, std: float) -> dict[str, tuple[float]]:
    """The statistics of 28x28 images after zero-padding to 32x32: the same sums over more pixels."""
    share = (28 / 32) ** 2
    return {"mean": (mean * share,), "std": (math.sqrt((std**2 + mean**2) * share - (mean * share) ** 2),)}


# Where the statistics come from: digits: its training images at 32 pixels. MNIST .1307/.3081, Fashion-MNIST
# .2860/.3530 and SVHN: the usual pixel statistics of the training images. CIFAR-10: the values that the open-set
# literature shares (their std is the mean over images). CIFAR-100: as in SupContrast. Tiny ImageNet: pixel statistics.
SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        Source("digits", (1, 8, 8), (1, 32, 32), (0.3054,), (0.3235,), {"train": 1438, "test": 359}, 0),
        Source(
            "mnist",
            (1, 28, 28),
            (1, 32, 32),
            **_padded(0.1307, 0.3081),
            counts={"train": 60000, "test": 10000},
            megabytes=12,
        ),
        Source(
            "fashion-mnist",
            (1, 28, 28),
            (1, 32, 32),
            **_padded(0.2860, 0.3530),
            counts={"train": 60000, "test": 10000},
            megabytes=31,
        ),
        Source(
            "svhn",
            (3, 32, 32),
            (3, 32, 32),
            (0.4377, 0.4438, 0.4728),
            (0.1980, 0.2010, 0.1970),
            {"train": 73257, "test": 26032},
            246,
        ),
        Source(
            "cifar10",
            (3, 32, 32),
            (3, 32, 32),
            (0.4914, 0.4822, 0.4465),
            (0.2023, 0.1994, 0.2010),
            {"train": 50000, "test": 10000},
            170,
        ),
        Source(
            "cifar100",
            (3, 32, 32),
            (3, 32, 32),
            (0.5071, 0.4867, 0.4408),
            (0.2675, 0.2565, 0.2761),
            {"train": 50000, "test": 10000},
            169,
        ),
        Source(
            "tinyimagenet",
            (3, 64, 64),
            (3, 64, 64),
            (0.4802, 0.4481, 0.3975),
            (0.2770, 0.2691, 0.2821),
            {"train": 100000, "test": 10000},
            248,
        ),
    )
}

# A user's own photographs (`folder`) are normalised with ImageNet's statistics.
FOLDER_MEAN = (0.485, 0.456, 0.406)
FOLDER_STD = (0.229, 0.224, 0.225)

# Sources whose classes change when mirrored: no horizontal flips.
DIGIT_SOURCES = frozenset({"digits", "mnist", "svhn"})


@lru_cache(maxsize=1)
def _class_names() -> dict[str, list[str]]:
    return json.loads(files("nas_osr.data.sources").joinpath("class_names.json").read_text(encoding="utf-8"))


@lru_cache(maxsize=1)
def published_splits() -> dict[str, Any]:
    """The published class splits: family -> list name -> {"known": [[...], ...], ...}, as printed by their authors."""
    return json.loads(files("nas_osr.data").joinpath("splits.json").read_text(encoding="utf-8"))
