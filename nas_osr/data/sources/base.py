"""The seam of this room: a source is one class that says what its images are, where they lie and how they are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, TypeAlias

from nas_osr.data.sources.class_folders import match_class_folders
from nas_osr.data.sources.listing import PassedOver, list_class_folders, list_images
from nas_osr.data.sources.named_classes import NamedClasses
from nas_osr.data.sources.places import Archive, Location, possible_places, resolve_data_dir
from nas_osr.errors import UserError
from nas_osr.files.paths import user_path

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from nas_osr.data.sources.image_files import UnreadableImage

Shape = tuple[int, int, int]  # (C, H, W)
Arrays: TypeAlias = "tuple[np.ndarray, np.ndarray]"  # images and class ids

SOURCE_PARTS = ("train", "test")


class Source(NamedClasses):
    """Labelled images of some classes, in two parts, train and test. A class attribute states each fact.

    Images lie in the data folder as their authors (and torchvision) distribute them, or in folders of classes,
    `name`/{train,test}/CLASS. A subclass with official files says `official` and overrides `read_official`, or
    `list_official` where they are image files; one that makes or brings its images says `comes_with` and overrides
    `read`.

    Attributes:
        name: in messages, and of its folder.
        image_shape: (C, H, W) that the toolkit works with, H and W multiples of 16.
        file_shape: (C, H, W) of the images in their files.
        aliases: other names of class folders, by class name; case, spaces and punctuation never count.
        mean, std: per channel, of the training images at `image_shape`, in [0, 1] units.
        counts: official number of images by part; empty where there is none and files are counted.
        mirrors: whether a mirrored image shows the same class; a digit's does not.
        any_size: images of any size and mode are converted, and `image_size` may be chosen.
        grey_too: grey files stand among the coloured ones.
        comes_with: the package that brings the images, where no data folder is needed.
        official: where torchvision puts its files, below the data folder or `name`/ in it; {part} is train or test.
        other_official: folders where others put them.
        checksums: MD5 of official files, by part and name.
        archives, archive_folder: what to download, and where below the data folder it goes.
        megabytes: size of the download.

    Args:
        data_dir: the data folder; None: the environment variable NAS_OSR_DATA.
        image_size: H and W of `image_shape`, where `any_size`.

    Of each object:
        skip_broken: pass over image files that cannot be read, and count them; otherwise they are an error.
        passed_over: what the last call of `load` or `count_classes` has found and not used.
    """

    image_shape: Shape
    file_shape: Shape
    aliases: Mapping[str, Sequence[str]] = {}
    mean: tuple[float, ...]
    std: tuple[float, ...]
    counts: Mapping[str, int] = {}
    mirrors = True
    any_size = False
    grey_too = False
    comes_with: str | None = None
    official: str | None = None
    other_official: tuple[str, ...] = ()
    checksums: Mapping[str, Mapping[str, str]] = {}
    archives: tuple[Archive, ...] = ()
    archive_folder = "."
    megabytes = 0

    def __init__(self, data_dir: Path | None = None, image_size: int | None = None) -> None:
        self.data_dir = data_dir
        self.skip_broken = False
        self.passed_over = PassedOver()
        if image_size is None:
            return
        if not self.any_size:
            raise UserError(f"image_size is for the protocol folder; {self.name} has a fixed size")
        if type(image_size) is not int or image_size < 16 or image_size % 16:
            raise UserError(f"image_size must be a multiple of 16, got {image_size!r}")
        self.image_shape = (self.image_shape[0], image_size, image_size)

    @property
    def folder(self) -> Path:
        """The data folder, or that of an archive or official file which was named for it. Raises UserError."""
        named = None if self.data_dir is None else user_path(self.data_dir)
        files = {Path(self.official).name.format(part=part) for part in SOURCE_PARTS} if self.official else set()
        if named is not None and named.is_file() and named.name in files | {item.name for item in self.archives}:
            return named.parent
        return resolve_data_dir(self.data_dir)

    @property
    def subfolder(self) -> str:
        """Its own folder below the data folder."""
        return self.name

    @property
    def layout(self) -> str:
        """How folders of classes lie below the data folder."""
        return f"{Path(self.subfolder, '{train,test}')}/CLASS/*"

    def find(self, part: str) -> Location | None:
        """Where a part lies below the data folder: official files first, None if it is absent."""
        folder = self.folder
        bases = (self.subfolder, *(archive.stem for archive in self.archives))
        for official in (self.official, *self.other_official) if self.official else ():
            for path in possible_places(folder, bases, PurePath(str(official).format(part=part))):
                if self.is_official(path, part):
                    return Location(path, official=True)
        for path in possible_places(folder, (), PurePath(self.subfolder, part)):
            if path.is_dir():
                return Location(path, official=False)
        return None

    def is_official(self, path: Path, part: str) -> bool:
        """Whether a path where official files may lie has them."""
        return path.exists()

    def packed(self) -> dict[Archive, Path]:
        """The archives that lie in the data folder, unpacked or not; their checksums are not looked at."""
        folder = self.folder
        found = {}
        for archive in self.archives:
            places = (folder / base / archive.name for base in ("", self.subfolder, self.archive_folder))
            path = next(filter(Path.is_file, places), None)
            if path is not None and archive.unpack:
                found[archive] = path
        return found

    def load(
        self, part: str, classes: Collection[int], image_shape: Shape, limit_per_class: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """The images of some classes; files of other classes are not opened where the layout allows.

        Args:
            part: "train" or "test".
            classes: class ids; their order is without effect.
            image_shape: (C, H, W) of the result. 28x28 images are zero-padded to 32x32; otherwise images of another
                shape are resized (bilinear, antialiased), grey repeated to colour, colour averaged to grey (ITU-R 601).
            limit_per_class: at most so many images of each class, the first ones (before broken ones are passed over).

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
        self.passed_over = PassedOver()
        images, labels = self.read(part, wanted, image_shape, limit_per_class)
        kept = np.flatnonzero(np.isin(labels, wanted))
        if limit_per_class is not None:
            of_each = [np.flatnonzero(labels == class_id)[:limit_per_class] for class_id in wanted]
            kept = np.sort(np.concatenate(of_each))
        for class_id in wanted:
            if not (labels[kept] == class_id).any():
                shown = self.class_names[class_id]
                raise UserError(f"{self.where} has no {part} image of class {shown}: add some, or choose other classes")
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
            raise self._not_there(part)
        paths = self._list_files(location, part, classes)
        if paths is None:
            return self.read_official(location.path, part, classes, limit)
        return self.read_files(paths, image_shape, limit)

    def _not_there(self, part: str) -> UserError:
        """What to do about a part that was not found."""
        packed = list(self.packed().values())
        if packed:
            return UserError(
                f"{self.name} ({part}): {packed[0]} is packed: "
                f"`nas-osr data prepare {self.name} --data_dir {self.folder}` unpacks it"
            )
        official = f"{self.official.format(part=part)} or " if self.official else ""
        return UserError(
            f"{self.name} ({part}) is not in {self.folder}: expected {official}{Path(self.subfolder, part, 'CLASS')}/* "
            "(images); `nas-osr data prepare` says how to get it"
        )

    def read_official(self, path: Path, part: str, classes: Collection[int], limit: int | None) -> Arrays:
        """The same as `read`, from the official files; in their order. Raises UserError that names a broken file."""
        raise NotImplementedError

    def list_official(self, path: Path, part: str, classes: Collection[int]) -> dict[int, list[Path]] | None:
        """Class id -> image files in a stable order, where the official files are such; then nothing else is needed."""
        return None

    def read_files(self, paths: Mapping[int, Sequence[Path]], image_shape: Shape, limit: int | None) -> Arrays:
        """Decode the first image files of each class (class id -> files)."""
        import numpy as np

        from nas_osr.data.sources.image_files import try_images

        chosen = [(path, class_id) for class_id in sorted(paths) for path in paths[class_id][:limit]]
        images, unreadable = try_images([path for path, _ in chosen], **self._demands(image_shape))
        labels = np.array([class_id for _, class_id in chosen], dtype=np.int64)
        self._pass_over(unreadable)
        kept = np.setdiff1d(np.arange(len(labels)), list(unreadable))
        return (images[kept], labels[kept]) if unreadable else (images, labels)

    def count_classes(self, part: str, decode: bool = False) -> dict[int, int]:
        """How many images of each class lie there, from headers and listings as far as possible; empty if it is absent.

        With `decode` every image file is read, too. Raises UserError: a file or folder is not what it should be.
        """
        self.passed_over = PassedOver()
        classes: Collection[int] = range(len(self.class_names))
        if self.comes_with is not None:
            return _tally(self.read(part, classes, self.image_shape, None)[1].tolist())
        location = self.find(part)
        if location is None:
            return {}
        if not location.official:
            classes = list(self.class_folders(location.path))
        paths = self._list_files(location, part, classes)
        if paths is None:
            return _tally(self.read_official(location.path, part, classes, None)[1].tolist())
        files = [(path, class_id) for class_id in sorted(paths) for path in paths[class_id]]
        broken = self._find_broken([path for path, _ in files]) if decode else ()
        return _tally(class_id for index, (_, class_id) in enumerate(files) if index not in broken)

    def _find_broken(self, paths: Sequence[Path]) -> Collection[int]:
        """Indices of image files that are passed over, after decoding all of them. Raises UserError."""
        from nas_osr.data.sources.image_files import find_unreadable

        unreadable = find_unreadable(paths, **self._demands(self.image_shape))
        self._pass_over(unreadable)
        return unreadable.keys()

    def _demands(self, image_shape: Shape) -> dict[str, Any]:
        """What an image file must be, for `nas_osr.data.sources.image_files`."""
        shape = image_shape if self.any_size else self.file_shape
        return {"shape": shape, "grey_too": self.grey_too, "convert": self.any_size}

    def _pass_over(self, unreadable: Mapping[int, UnreadableImage]) -> None:
        """Count broken files, or raise UserError that lists them."""
        from nas_osr.data.sources.image_files import refuse_unreadable

        if not self.skip_broken:
            refuse_unreadable(list(unreadable.values()))
        self.passed_over.files.update(error.reason for error in unreadable.values())

    def count_training(self, classes: Collection[int]) -> dict[int, int]:
        """Training images of these classes, without opening one: equal shares of the official number, or files."""
        if self.counts:
            return dict.fromkeys(classes, self.counts["train"] // len(self.class_names))
        location = self.find("train")
        paths = self._list_images(location.path, classes) if location is not None else {}
        return {class_id: len(paths.get(class_id, ())) for class_id in classes}

    def class_folders(self, folder: Path) -> dict[int, Path]:
        """Class id -> folder, of class folders in a folder; see `match_class_folders`. Raises UserError."""
        return match_class_folders(folder, list_class_folders(folder), self.class_names, self.aliases)

    def _list_files(self, location: Location, part: str, classes: Collection[int]) -> dict[int, list[Path]] | None:
        """Class id -> image files; None where images are inside official files."""
        if location.official:
            return self.list_official(location.path, part, classes)
        return self._list_images(location.path, classes)

    def _list_images(self, folder: Path, classes: Collection[int]) -> dict[int, list[Path]]:
        """Class id -> image files, sorted by name, in a folder of class folders."""
        folders = self.class_folders(folder)
        list_class_folders(folder, self.passed_over)
        for class_id in classes:
            if class_id not in folders:
                known = 0 <= class_id < len(self.class_names)
                shown = self.class_names[class_id] if known else class_id
                raise UserError(
                    f"{folder} has no folder for class {shown}, or an empty one: add it, or choose other classes"
                )
        return {class_id: list_images(folders[class_id], self.passed_over) for class_id in classes}


def _tally(classes: Iterable[int]) -> dict[int, int]:
    """Class id -> how often it is there, by rising id."""
    return dict(sorted(Counter(classes).items()))
