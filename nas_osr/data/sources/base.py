"""The seam of this room: a source is one class that says what its images are, where they lie and how they are read."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from nas_osr.errors import UserError
from nas_osr.files.paths import user_path
from nas_osr.files.storage import file_errors

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Shape = tuple[int, int, int]  # (C, H, W)
Arrays: TypeAlias = "tuple[np.ndarray, np.ndarray]"  # images and class ids

SOURCE_PARTS = ("train", "test")
DATA_DIR_VARIABLE = "NAS_OSR_DATA"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_OTHER_IMAGES = (".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".heic")


@dataclass(frozen=True)
class Archive:
    """One file to fetch.

    Attributes:
        urls: the same file in several places, tried in order.
        md5: its checksum.
        unpack: it is a tar, zip or gz file to be unpacked (and then deleted).
    """

    urls: tuple[str, ...]
    md5: str
    unpack: bool = True


@dataclass(frozen=True)
class Location:
    """Where one part of a source was found: official files (one, or their folder), or a folder of class folders."""

    path: Path
    official: bool


class Source:
    """Labelled images of some classes, in two parts, train and test. A class attribute states each fact.

    Images lie in the data folder as their authors (and torchvision) distribute them, or in folders of classes,
    `name`/{train,test}/CLASS. A subclass with official files says `official` and overrides `read_official`; one that
    makes or brings its images says `comes_with` and overrides `read`.

    Attributes:
        name: in messages, and of its folder.
        image_shape: (C, H, W) that the toolkit works with, H and W multiples of 16.
        file_shape: (C, H, W) of the images in their files.
        mean, std: per channel, of the training images at `image_shape`, in [0, 1] units.
        counts: official number of images by part; empty where there is none and files are counted.
        mirrors: whether a mirrored image shows the same class; a digit's does not.
        any_size: images of any size and mode are converted, and `image_size` may be chosen.
        grey_too: grey files stand among the coloured ones.
        comes_with: the package that brings the images, where no data folder is needed.
        official: where torchvision puts its files, below the data folder or `name`/ in it; {part} is train or test.
        checksums: MD5 of official files, by part and name.
        archives, archive_folder: what to download, and where below the data folder it goes.
        megabytes: size of the download.

    Args:
        data_dir: the data folder; None: the environment variable NAS_OSR_DATA.
        image_size: H and W of `image_shape`, where `any_size`.
    """

    name: str
    image_shape: Shape
    file_shape: Shape
    mean: tuple[float, ...]
    std: tuple[float, ...]
    counts: Mapping[str, int] = {}
    mirrors = True
    any_size = False
    grey_too = False
    comes_with: str | None = None
    official: str | None = None
    checksums: Mapping[str, Mapping[str, str]] = {}
    archives: tuple[Archive, ...] = ()
    archive_folder = "."
    megabytes = 0

    def __init__(self, data_dir: Path | None = None, image_size: int | None = None) -> None:
        self.data_dir = data_dir
        if image_size is None:
            return
        if not self.any_size:
            raise UserError(f"image_size is for the protocol folder; {self.name} has a fixed size")
        if type(image_size) is not int or image_size < 16 or image_size % 16:
            raise UserError(f"image_size must be a multiple of 16, got {image_size!r}")
        self.image_shape = (self.image_shape[0], image_size, image_size)

    @property
    def class_names(self) -> Sequence[str]:
        """In the order of the official label numbers: a class id is the position. A class attribute in most."""
        raise NotImplementedError

    @property
    def folder(self) -> Path:
        """The data folder; UserError when there is none."""
        return resolve_data_dir(self.data_dir)

    @property
    def subfolder(self) -> str:
        """Its own folder below the data folder."""
        return self.name

    @property
    def layout(self) -> str:
        """How folders of classes lie below the data folder."""
        return f"{Path(self.subfolder, '{train,test}')}/CLASS/*"

    @property
    def trainable(self) -> frozenset[int]:
        """The class ids that have training images."""
        return frozenset(range(len(self.class_names)))

    def find(self, part: str) -> Location | None:
        """Where a part lies below the data folder: official files first, None if it is absent."""
        own = self.folder / self.subfolder
        for base in (self.folder, own) if self.official else ():
            path = base / str(self.official).format(part=part)
            if path.exists():
                return Location(path, official=True)
        path = own / part
        return Location(path, official=False) if path.is_dir() else None

    def load(
        self, part: str, classes: Collection[int], image_shape: Shape, limit_per_class: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """The images of some classes; files of other classes are not opened where the layout allows.

        Args:
            part: "train" or "test".
            classes: class ids; their order is without effect.
            image_shape: (C, H, W) of the result. 28x28 images are zero-padded to 32x32; otherwise images of another
                shape are resized (bilinear, antialiased), grey repeated to colour, colour averaged to grey (ITU-R 601).
            limit_per_class: at most so many images of each class, the first ones.

        Returns:
            uint8 [n, C, H, W] and int64 [n] class ids. The order is stable: that of the official file, or by class id
            and file name.

        Raises:
            UserError: data missing, corrupt, of a wrong size or mode, or a class without images.
        """
        import numpy as np
        import torch

        from nas_osr.data.sources.shapes import fit_shape

        if part not in SOURCE_PARTS:
            raise UserError(f"unknown part {part!r}: choose train or test")
        wanted = sorted(set(classes))
        if not wanted:
            return torch.empty((0, *image_shape), dtype=torch.uint8), torch.empty(0, dtype=torch.int64)
        images, labels = self.read(part, wanted, image_shape, limit_per_class)
        kept = np.flatnonzero(np.isin(labels, wanted))
        if limit_per_class is not None:
            of_each = [np.flatnonzero(labels == class_id)[:limit_per_class] for class_id in wanted]
            kept = np.sort(np.concatenate(of_each))
        for class_id in wanted:
            if not (labels[kept] == class_id).any():
                raise UserError(
                    f"{self.name} has no {part} image of class {class_id}: check the files, or choose other classes"
                )
        if len(kept) < len(labels):
            images, labels = images[kept], labels[kept]
        tensor, ids = (torch.from_numpy(np.require(array, requirements=("C", "W"))) for array in (images, labels))
        return fit_shape(tensor, image_shape), ids

    def read(self, part: str, classes: Collection[int], image_shape: Shape, limit: int | None) -> Arrays:
        """At least the images of these classes (one or more), uint8 [n, c, h, w], with their class ids, int64 [n].

        `limit` images of each class are enough. Where files have a size of their own, `load` sees to `image_shape`.
        """
        location = self.find(part)
        if location is None:
            official = f"{self.official.format(part=part)} or " if self.official else ""
            folders = Path(self.subfolder, part, "CLASS")
            raise UserError(
                f"{self.name} ({part}) is not in {self.folder}: expected {official}{folders}/*.png|jpg|webp; "
                "`nas-osr data prepare` says how to get it"
            )
        if location.official:
            return self.read_official(location.path, part, classes, limit)
        return self.read_files(self._list_images(location.path, classes), image_shape, limit)

    def read_official(self, path: Path, part: str, classes: Collection[int], limit: int | None) -> Arrays:
        """The same as `read`, from the official files; in their order. Raises UserError that names a broken file."""
        raise NotImplementedError

    def read_files(self, paths: Mapping[int, Sequence[Path]], image_shape: Shape, limit: int | None) -> Arrays:
        """Decode the first image files of each class (class id -> files)."""
        import numpy as np

        from nas_osr.data.sources.image_files import read_images

        chosen = [(path, class_id) for class_id in sorted(paths) for path in paths[class_id][:limit]]
        images = read_images(
            [path for path, _ in chosen],
            image_shape if self.any_size else self.file_shape,
            grey_too=self.grey_too,
            convert=self.any_size,
        )
        return images, np.array([class_id for _, class_id in chosen], dtype=np.int64)

    def count(self, part: str) -> int:
        """How many images of all classes lie there, from headers and listings as far as possible. Raises UserError."""
        location = self.find(part)
        if location is None:
            return 0
        if location.official:
            return self.count_official(location.path, part)
        return sum(map(len, self._list_images(location.path, self.class_folders(location.path)).values()))

    def count_official(self, path: Path, part: str) -> int:
        """The same for the official files."""
        return len(self.read_official(path, part, range(len(self.class_names)), None)[1])

    def count_training(self, classes: Collection[int]) -> dict[int, int]:
        """Training images of these classes, without opening one: equal shares of the official number, or files."""
        if self.counts:
            return dict.fromkeys(classes, self.counts["train"] // len(self.class_names))
        location = self.find("train")
        paths = self._list_images(location.path, classes) if location is not None else {}
        return {class_id: len(paths.get(class_id, ())) for class_id in classes}

    def class_folders(self, folder: Path) -> dict[int, Path]:
        """Class id -> folder. Official names or numbers say it themselves; else alphabetical order counts, if complete
        and that of the official numbers.
        """
        found = list_class_folders(folder)
        official = {name: class_id for class_id, name in enumerate(self.class_names)}
        if found and all(name in official for name in found):
            return {official[name]: folder / name for name in found}
        if found and all(name.isascii() and name.isdigit() for name in found):
            numbered = {int(name): folder / name for name in found}
            if len(numbered) == len(found) and max(numbered) < len(official):
                return numbered
        if len(found) == len(official) and sorted(official) == list(official):  # Fashion-MNIST's order is another
            return {class_id: folder / name for class_id, name in enumerate(found)}
        raise UserError(
            f"{folder} has {len(found)} class folders whose label numbers cannot be told: "
            f"name them 0 to {len(official) - 1}, or have all {len(official)} with the official names"
        )

    def check_names(self, class_ids: Sequence[int], names: Sequence[str]) -> None:
        """UserError unless these class ids still have these names (none: a protocol that was described without)."""
        for class_id, name in zip(class_ids, names, strict=bool(names)):
            found = self.class_names[class_id] if class_id < len(self.class_names) else "missing"
            if found != name:
                raise UserError(
                    f"{self.name}: class {class_id} was {name} when the protocol was made, and is {found} now: "
                    "its class folders have changed"
                )

    def _list_images(self, folder: Path, classes: Collection[int]) -> dict[int, list[Path]]:
        """Class id -> image files, sorted by name, in a folder of class folders."""
        folders = self.class_folders(folder)
        for class_id in classes:
            if class_id not in folders:
                known = 0 <= class_id < len(self.class_names)
                shown = self.class_names[class_id] if known else class_id
                raise UserError(f"{folder} has no folder for class {shown}: add it, or choose other classes")
        return {class_id: list_images(folders[class_id]) for class_id in classes}


def resolve_data_dir(data_dir: Path | None) -> Path:
    """The data folder: the argument, else the environment variable NAS_OSR_DATA; raises UserError if there is none."""
    value = data_dir if data_dir is not None else os.environ.get(DATA_DIR_VARIABLE)
    if not value:
        raise UserError(f"no data folder: give --data_dir, or set {DATA_DIR_VARIABLE}")
    folder = user_path(value)
    if not folder.is_dir():
        raise UserError(f"data folder {folder} does not exist: create it, or give another --data_dir")
    return folder


def list_class_folders(folder: Path) -> list[str]:
    """Names of the class folders, sorted; hidden ones and links that lead nowhere are left out. Raises UserError."""
    with file_errors(folder, "list"), os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if os.path.isdir(entry.path) and not entry.name.startswith("."))


def list_images(folder: Path) -> list[Path]:
    """The image files of one class folder, sorted by name; raises UserError on image formats that are not read."""
    with file_errors(folder, "list"), os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    for name in names:
        if name.lower().endswith(_OTHER_IMAGES):
            raise UserError(f"{folder / name} is not in a format that is read: convert it to png, jpg or webp")
    return [folder / name for name in names if name.lower().endswith(SUFFIXES)]
