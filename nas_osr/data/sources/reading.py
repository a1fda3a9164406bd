"""One door to every image source: bundled digits, official archives, image folders."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nas_osr.data.sources.catalogue import SOURCES, Shape
from nas_osr.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

PARTS = ("train", "test")
DATA_DIR_VARIABLE = "NAS_OSR_DATA"

# Where torchvision puts each source, below the data folder or below NAME/ in it; {part} is train or test.
_ARCHIVES = {
    "mnist": "MNIST/raw",
    "fashion-mnist": "FashionMNIST/raw",
    "svhn": "{part}_32x32.mat",
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
    "tinyimagenet": "tiny-imagenet-200",
}


@dataclass(frozen=True)
class Location:
    """Where one part of a source was found: an official archive (file or folder), or a folder of class folders."""

    path: Path
    official: bool


def resolve_data_dir(data_dir: Path | None) -> Path:
    """The data folder: the argument, else the environment variable NAS_OSR_DATA; raises UserError if there is none."""
    value = data_dir if data_dir is not None else os.environ.get(DATA_DIR_VARIABLE)
    if not value:
        raise UserError(f"no data folder: give --data_dir, or set {DATA_DIR_VARIABLE}")
    folder = Path(value).expanduser()
    if not folder.is_dir():
        raise UserError(f"data folder {folder} does not exist: create it, or give another --data_dir")
    return folder


def find_source(source: str, part: str, folder: Path) -> Location | None:
    """Where the part of a named source lies below the data folder; official archives first, None if it is absent."""
    for base in (folder, folder / source):
        path = base / _ARCHIVES[source].format(part=part)
        if path.exists():
            return Location(path, official=True)
    path = folder / source / part
    return Location(path, official=False) if path.is_dir() else None


def load_source(
    source: str,
    part: str,
    classes: Collection[int],
    data_dir: Path | None,
    image_shape: Shape,
    limit_per_class: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The images of some classes; files of other classes are not opened where the layout allows.

    Args:
        source: a name in `SOURCES`, or "folder".
        part: "train" or "test".
        classes: source class ids; their order is without effect.
        data_dir: see `resolve_data_dir`; not needed for digits.
        image_shape: (C, H, W) of the result. 28x28 images are zero-padded to 32x32; otherwise a source of another shape
            is resized (bilinear, antialiased), grey repeated to colour, colour averaged to grey (ITU-R 601 weights).
        limit_per_class: at most so many images of each class, the first ones.

    Returns:
        uint8 [n, C, H, W] and int64 [n] source class ids. The order is stable: that of the official file, or by class
        id and file name.

    Raises:
        UserError: data missing, corrupt, of a wrong size or mode, or a class without images.
    """
    import numpy as np
    import torch

    from nas_osr.data.sources.shapes import fit_shape

    if source != "folder" and source not in SOURCES:
        raise UserError(f"unknown source {source!r}: choose one of {', '.join(SOURCES)} or folder")
    if part not in PARTS:
        raise UserError(f"unknown part {part!r}: choose train or test")
    wanted = sorted(set(classes))
    if not wanted:
        return torch.empty((0, *image_shape), dtype=torch.uint8), torch.empty(0, dtype=torch.int64)
    if source == "digits":
        from nas_osr.data.sources.bundled import load_digits

        images, labels = load_digits(part)
    elif source == "folder":
        images, labels = _read_own_folder(part, wanted, resolve_data_dir(data_dir), image_shape, limit_per_class)
    else:
        images, labels = _read_named(source, part, wanted, _locate(source, part, data_dir), limit_per_class)
    kept = np.flatnonzero(np.isin(labels, wanted))
    if limit_per_class is not None:
        kept = np.sort(np.concatenate([np.flatnonzero(labels == class_id)[:limit_per_class] for class_id in wanted]))
    for class_id in wanted:
        if not (labels[kept] == class_id).any():
            raise UserError(
                f"{source} has no {part} image of class {class_id}: check the files, or choose other classes"
            )
    if len(kept) < len(labels):
        images, labels = images[kept], labels[kept]
    tensor, ids = (torch.from_numpy(np.require(array, requirements=("C", "W"))) for array in (images, labels))
    return fit_shape(tensor, image_shape), ids


def folder_classes(folder: Path) -> tuple[tuple[str, ...], frozenset[str]]:
    """The classes of the protocol `folder`: all names, sorted (a class id is the position), and those under train."""
    from nas_osr.data.sources.image_files import list_class_folders

    for part in PARTS:
        if not (folder / part).is_dir():
            raise UserError(
                f"{folder / part} is missing: the protocol folder needs {{train,test}}/CLASS/*.png|jpg|webp"
            )
    train, test = (list_class_folders(folder / part) for part in PARTS)
    names = tuple(sorted({*train, *test}))
    if not names:
        raise UserError(f"{folder} has no class folders: the protocol folder needs {{train,test}}/CLASS/*.png|jpg|webp")
    return names, frozenset(train)


def count_images(source: str, part: str, location: Location) -> int:
    """How many images of all classes lie there, from headers and folder listings as far as possible."""
    from nas_osr.data.sources import official
    from nas_osr.data.sources.image_files import list_images

    if not location.official:
        folders = _named_class_folders(source, location.path)
        return sum(len(list_images(folder)) for folder in folders.values())
    if source in ("mnist", "fashion-mnist"):
        return official.count_idx(location.path / f"{'train' if part == 'train' else 't10k'}-images-idx3-ubyte")
    if source == "tinyimagenet":
        wnids = dict(enumerate(SOURCES[source].class_names))
        return sum(map(len, official.list_tiny_imagenet(location.path, part, wnids).values()))
    return len(_read_archive(source, part, range(len(SOURCES[source].class_names)), location.path)[1])


def _locate(source: str, part: str, data_dir: Path | None) -> Location:
    folder = resolve_data_dir(data_dir)
    location = find_source(source, part, folder)
    if location is None:
        archive = _ARCHIVES[source].format(part=part)
        raise UserError(
            f"{source} ({part}) is not in {folder}: expected {archive} or {source}/{part}/CLASS/*.png|jpg|webp; "
            f"`nas-osr data prepare` says how to get it"
        )
    return location


def _read_archive(source: str, part: str, wanted: Collection[int], path: Path) -> tuple[np.ndarray, np.ndarray]:
    """All its images; of CIFAR, the largest, those of the wanted classes."""
    from nas_osr.data.sources import official

    if source in ("mnist", "fashion-mnist"):
        return official.read_mnist(path, part)
    if source == "svhn":
        return official.read_svhn(path)
    return official.read_cifar(path, source, part, wanted)


def _read_named(
    source: str, part: str, wanted: list[int], location: Location, limit: int | None
) -> tuple[np.ndarray, np.ndarray]:
    from nas_osr.data.sources.image_files import list_images
    from nas_osr.data.sources.official import list_tiny_imagenet

    names = SOURCES[source].class_names
    if location.official and source != "tinyimagenet":
        return _read_archive(source, part, wanted, location.path)
    if location.official:
        wnids = {class_id: names[class_id] for class_id in wanted}
        paths = list_tiny_imagenet(location.path, part, wnids)
    else:
        folders = _named_class_folders(source, location.path)
        for class_id in wanted:
            if class_id not in folders:
                raise UserError(f"{location.path} has no folder for class {class_id} ({names[class_id]})")
        paths = {class_id: list_images(folders[class_id]) for class_id in wanted}
    grey_too = source == "tinyimagenet"
    return _read_files(paths, SOURCES[source].file_shape, limit, grey_too=grey_too, convert=False)


def _read_own_folder(
    part: str, wanted: list[int], folder: Path, image_shape: Shape, limit: int | None
) -> tuple[np.ndarray, np.ndarray]:
    from nas_osr.data.sources.image_files import list_images

    names, _ = folder_classes(folder)
    paths = {}
    for class_id in wanted:
        if not (0 <= class_id < len(names) and (folder / part / names[class_id]).is_dir()):
            shown = names[class_id] if 0 <= class_id < len(names) else class_id
            raise UserError(f"{folder / part} has no folder for class {shown}: add it, or choose other classes")
        paths[class_id] = list_images(folder / part / names[class_id])
    return _read_files(paths, image_shape, limit, grey_too=False, convert=True)


def _read_files(
    paths: dict[int, list[Path]], shape: Shape, limit: int | None, *, grey_too: bool, convert: bool
) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    from nas_osr.data.sources.image_files import read_images

    chosen = [(path, class_id) for class_id in sorted(paths) for path in paths[class_id][:limit]]
    images = read_images([path for path, _ in chosen], shape, grey_too=grey_too, convert=convert)
    return images, np.array([class_id for _, class_id in chosen], dtype=np.int64)


def _named_class_folders(source: str, folder: Path) -> dict[int, Path]:
    """Class id -> folder. Official names or numbers say it themselves; else alphabetical order counts, if complete."""
    from nas_osr.data.sources.image_files import list_class_folders

    found = list_class_folders(folder)
    official = {name: class_id for class_id, name in enumerate(SOURCES[source].class_names)}
    if found and all(name in official for name in found):
        return {official[name]: folder / name for name in found}
    if found and all(name.isascii() and name.isdigit() for name in found):
        numbered = {int(name): folder / name for name in found}
        if len(numbered) == len(found) and max(numbered) < len(official):
            return numbered
    # The official order of Fashion-MNIST (T-shirt, Trouser, Pullover, ...) is not alphabetical.
    if len(found) == len(official) and source != "fashion-mnist":
        return {class_id: folder / name for class_id, name in enumerate(found)}
    raise UserError(
        f"{folder} has {len(found)} class folders whose label numbers cannot be told: "
        f"name them 0 to {len(official) - 1}, or have all {len(official)} with the official names"
    )
