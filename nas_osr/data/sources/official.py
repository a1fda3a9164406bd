"""Readers of the official archives as torchvision lays them out: CIFAR pickles, MNIST idx, SVHN mat, Tiny ImageNet.

Every reader returns the images of its part, uint8 [n, C, H, W], with their class ids, int64 [n], in file order.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np

from nas_osr.data.sources.matlab import read_matlab
from nas_osr.data.sources.pickles import read_pickled_batch
from nas_osr.errors import UserError
from nas_osr.files.text import read_text

Arrays = tuple[np.ndarray, np.ndarray]

MAX_IDX_BYTES = 1 << 28  # unpacked; the largest official one has 47 MB

CIFAR_FILES = {
    ("cifar10", "train"): tuple(f"data_batch_{number}" for number in range(1, 6)),
    ("cifar10", "test"): ("test_batch",),
    ("cifar100", "train"): ("train",),
    ("cifar100", "test"): ("test",),
}


def read_cifar(folder: Path, source: str, part: str, wanted: Collection[int]) -> Arrays:
    """`cifar-10-batches-py` or `cifar-100-python` (fine labels), the images of these classes only."""
    key, classes = ("labels", 10) if source == "cifar10" else ("fine_labels", 100)
    images, labels = [], []
    for name in CIFAR_FILES[source, part]:
        path = folder / name
        _require(path)
        data, lists = read_pickled_batch(path)
        if key not in lists or len(lists[key]) != len(data) or data.shape[1] != 3 * 32 * 32:
            raise UserError(f"{path} is not a {source} file: it needs 'data' [n, 3072] and as many '{key}'")
        ids = _check_labels(np.array(lists[key], dtype=np.int64), classes, path)
        kept = np.isin(ids, list(wanted))
        images.append(data[kept].reshape(-1, 3, 32, 32))
        labels.append(ids[kept])
    return np.concatenate(images), np.concatenate(labels)


def read_mnist(folder: Path, part: str) -> Arrays:
    """`MNIST/raw` or `FashionMNIST/raw`: idx files, as they are or gzipped."""
    stem = "train" if part == "train" else "t10k"
    image_path = _plain_or_gzipped(folder / f"{stem}-images-idx3-ubyte")
    label_path = _plain_or_gzipped(folder / f"{stem}-labels-idx1-ubyte")
    images, labels = read_idx(image_path), read_idx(label_path).astype(np.int64)
    if images.ndim != 3 or images.shape[1:] != (28, 28):
        raise UserError(
            f"{image_path} holds images of shape {list(images.shape[1:])}, not 28x28: fetch the official file"
        )
    if labels.ndim != 1 or len(labels) != len(images):
        raise UserError(f"{label_path} has {len(labels)} labels for {len(images)} images: fetch the official files")
    return images[:, None], _check_labels(labels, 10, label_path)


def read_idx(path: Path) -> np.ndarray:
    """An idx file of unsigned bytes: magic 00 00 08 and the rank, big-endian sizes, then the values."""
    content = _read_bytes(path, MAX_IDX_BYTES + 1)
    if len(content) > MAX_IDX_BYTES:
        raise UserError(f"{path} is larger than {MAX_IDX_BYTES >> 20} MiB: fetch the official file")
    rank = content[3] if len(content) > 3 else 0
    if content[:3] != b"\x00\x00\x08" or not 1 <= rank <= 3 or len(content) < 4 + 4 * rank:
        raise UserError(f"{path} is not an idx file of bytes: fetch the official file")
    shape = struct.unpack_from(f">{rank}I", content, 4)
    start = 4 + 4 * len(shape)
    if len(content) - start != math.prod(shape):
        raise UserError(f"{path} is incomplete: {len(content) - start} of {math.prod(shape)} values; fetch it again")
    if not len(content) - start:
        raise UserError(f"{path} holds nothing: fetch the official file")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def count_idx(path: Path) -> int:
    """How many entries an idx file announces, from its header alone."""
    path = _plain_or_gzipped(path)
    header = _read_bytes(path, 8)
    if header[:3] != b"\x00\x00\x08" or len(header) < 8:
        raise UserError(f"{path} is not an idx file of bytes: fetch the official file")
    return struct.unpack_from(">I", header, 4)[0]


def read_svhn(path: Path) -> Arrays:
    """`train_32x32.mat` or `test_32x32.mat`: X [32, 32, 3, n] and y [n, 1] in 1..10, where 10 is the digit 0."""
    _require(path)
    try:
        content = read_matlab(path, ("X", "y"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a MATLAB file ({error}): fetch the official file again") from error
    images, labels = content.get("X"), content.get("y")
    if images is None or images.dtype != np.uint8 or images.ndim != 4 or images.shape[:3] != (32, 32, 3):
        raise UserError(f"{path} needs an 8-bit X of shape [32, 32, 3, n]: fetch the official file again")
    if labels is None or labels.size != images.shape[3]:
        raise UserError(f"{path} needs one y for each of its {images.shape[3]} images: fetch the official file again")
    labels = labels.astype(np.int64).reshape(-1) % 10
    return np.ascontiguousarray(images.transpose(3, 2, 0, 1)), _check_labels(labels, 10, path)


def list_tiny_imagenet(folder: Path, part: str, wnids: dict[int, str]) -> dict[int, list[Path]]:
    """The image files of `tiny-imagenet-200` by class id, for the classes asked for (id -> WordNet id).

    The official *val* folder, whose labels are in `val_annotations.txt`, is the test part.
    """
    if part == "train":
        return {class_id: _jpegs(folder / "train" / wnid / "images") for class_id, wnid in wnids.items()}
    table = folder / "val" / "val_annotations.txt"
    _require(table)
    ids = {wnid: class_id for class_id, wnid in wnids.items()}
    paths: dict[int, list[Path]] = {class_id: [] for class_id in wnids}
    for number, line in enumerate(read_text(table).splitlines(), start=1):
        columns = line.split("\t")
        if len(columns) < 2 or Path(columns[0]).name != columns[0]:
            raise UserError(f"{table} line {number}: expected a file name, a tab and a WordNet id; fetch it again")
        if columns[1] in ids:
            paths[ids[columns[1]]].append(folder / "val" / "images" / columns[0])
    return {class_id: sorted(found) for class_id, found in paths.items()}


def _jpegs(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"{folder} is missing: fetch and unpack tiny-imagenet-200.zip again")
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpeg", ".jpg"))


def _require(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path} is missing: fetch and unpack the official archive again")


def _plain_or_gzipped(path: Path) -> Path:
    zipped = path.with_name(path.name + ".gz")
    if not path.is_file() and zipped.is_file():
        return zipped
    _require(path)
    return path


def _read_bytes(path: Path, size: int) -> bytes:
    """The first `size` bytes, unpacked."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return file.read(size)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}; fetch the official file again") from error


def _check_labels(labels: np.ndarray, classes: int, path: Path) -> np.ndarray:
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise UserError(f"{path} has a label outside 0 to {classes - 1}: fetch the official file again")
    return labels
