"""MNIST and Fashion-MNIST: grey 28x28 images in idx files."""

from __future__ import annotations

import math
import struct
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nas_osr.data.sources.base import Arrays, Source
from nas_osr.data.sources.class_folders import DIGIT_WORDS
from nas_osr.data.sources.official_files import read_whole
from nas_osr.data.sources.places import Archive
from nas_osr.errors import UserError

if TYPE_CHECKING:
    import numpy as np

_PREFIXES = {"train": "train", "test": "t10k"}
_KINDS = ("images-idx3", "labels-idx1")


def _padded(mean: float, std: float) -> tuple[tuple[float], tuple[float]]:
    """Mean and standard deviation of 28x28 images after zero-padding to 32x32: the same sums over more pixels."""
    share = (28 / 32) ** 2
    return (mean * share,), (math.sqrt((std**2 + mean**2) * share - (mean * share) ** 2),)


def _archives(mirrors: tuple[str, ...], **checksums: str) -> tuple[Archive, ...]:
    """The four files, by MD5 of what their names begin with."""
    names = {stem: f"{stem.replace('_', '-')}-idx{3 if 'images' in stem else 1}-ubyte.gz" for stem in checksums}
    return tuple(Archive(tuple(base + names[stem] for base in mirrors), md5) for stem, md5 in checksums.items())


class MNIST(Source):
    """Handwritten digits (LeCun et al.), zero-padded to 32x32; the usual pixel statistics of the training images."""

    name = "mnist"
    class_names: Sequence[str] = tuple("0123456789")
    aliases: Mapping[str, Sequence[str]] = DIGIT_WORDS
    file_shape = (1, 28, 28)
    image_shape = (1, 32, 32)
    mean, std = _padded(0.1307, 0.3081)
    counts = {"train": 60000, "test": 10000}
    mirrors = False
    official = archive_folder = "MNIST/raw"
    other_official: tuple[str, ...] = ("MNIST", "mnist/raw", "mnist")
    archives = _archives(
        ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
        train_images="f68b3c2dcbeaaa9fbdd348bbdeb94873",
        train_labels="d53e105ee54ea40749a09fcbcd1e9432",
        t10k_images="9fb629c4189551a2d022fa330f9573f3",
        t10k_labels="ec29112dd5afa0611ce80d1b7f02629c",
    )
    megabytes = 12

    def is_official(self, path: Path, part: str) -> bool:
        """Whether a folder has a file of the part: a folder of class folders may have the same name."""
        return any(_find_idx(path, part, kind).is_file() for kind in _KINDS)

    def read_official(self, path: Path, part: str, classes: Collection[int], limit: int | None) -> Arrays:
        """All images of a part, from idx files; from a gzipped one where there is no other."""
        image_path, label_path = (_find_idx(path, part, kind) for kind in _KINDS)
        images, labels = read_idx(image_path), read_idx(label_path)
        if images.ndim != 3 or images.shape[1:] != self.file_shape[1:]:
            raise UserError(
                f"{image_path} holds images of shape {list(images.shape[1:])}, not 28x28: fetch the official file"
            )
        if labels.ndim != 1 or len(labels) != len(images):
            raise UserError(f"{label_path} has {len(labels)} labels for {len(images)} images: fetch the official files")
        if labels.max() >= len(self.class_names):
            raise UserError(f"{label_path} has a label outside 0 to 9: fetch the official file again")
        return images[:, None], labels.astype("int64")


class FashionMNIST(MNIST):
    """Clothes (Xiao et al.), in the format of MNIST."""

    name = "fashion-mnist"
    class_names = (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"
    )  # fmt: skip
    aliases = {
        "T-shirt/top": ("T-shirt", "top", "tee"),
        "Trouser": ("trousers", "pants"),
        "Pullover": ("sweater",),
        "Sandal": ("sandals",),
        "Sneaker": ("sneakers",),
        "Bag": ("handbag",),
        "Ankle boot": ("ankle boots", "boot", "boots"),
    }
    mean, std = _padded(0.2860, 0.3530)
    mirrors = True
    official = archive_folder = "FashionMNIST/raw"
    other_official = ("FashionMNIST", "fashion-mnist/raw", "fashion-mnist", "fashion_mnist", "fashionmnist")
    archives = _archives(
        ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        train_images="8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        train_labels="25c81989df183df01b3e8a0aad5dffbe",
        t10k_images="bef4ecab320f06d8554ea6380940ec79",
        t10k_labels="bb300cfdad3c16e7a12a480ee83cd310",
    )
    megabytes = 31


def _find_idx(folder: Path, part: str, kind: str) -> Path:
    """An idx file of a part, plain or gzipped, also with a dot in its name or in a folder of its own name."""
    official = folder / f"{_PREFIXES[part]}-{kind}-ubyte"
    dotted = folder / official.name.replace("-idx", ".idx")
    plain = (official, dotted, official / official.name, official / dotted.name, dotted / dotted.name)
    zipped = (path.with_name(f"{path.name}.gz") for path in (official, dotted))
    return next(filter(Path.is_file, (*plain, *zipped)), official)


def read_idx(path: Path) -> np.ndarray:
    """An idx file of unsigned bytes: magic 00 00 08 and the rank, big-endian sizes, then the values."""
    import numpy as np

    content = read_whole(path)
    rank = content[3] if len(content) > 3 else 0
    start = 4 + 4 * rank
    if content[:3] != b"\x00\x00\x08" or not 1 <= rank <= 3 or len(content) < start:
        raise UserError(f"{path} is not an idx file of bytes: fetch the official file")
    shape = struct.unpack_from(f">{rank}I", content, 4)
    if len(content) - start != math.prod(shape):
        raise UserError(f"{path} is incomplete: {len(content) - start} of {math.prod(shape)} values; fetch it again")
    if len(content) == start:
        raise UserError(f"{path} holds nothing: fetch the official file")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)
