"""Tiny ImageNet (Stanford): colour 64x64 images of 200 classes, numbered by sorted WordNet id."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from nas_osr.data.sources.base import Source
from nas_osr.data.sources.listing import list_images
from nas_osr.data.sources.places import Archive
from nas_osr.errors import UserError
from nas_osr.files.text import read_text


class TinyImageNet(Source):
    """The official *val* folder, whose labels are in `val_annotations.txt`, is the test part. Pixel statistics."""

    name = "tinyimagenet"
    class_names = tuple(read_text(Path(__file__).with_name("tiny_imagenet.txt")).split())
    file_shape = image_shape = (3, 64, 64)
    mean, std = (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)
    counts = {"train": 100000, "test": 10000}
    grey_too = True
    official = "tiny-imagenet-200"
    archives = (Archive(("http://cs231n.stanford.edu/tiny-imagenet-200.zip",), "90528d7ca1a48142e341f4ef8d21d0de"),)
    megabytes = 248

    def list_official(self, path: Path, part: str, classes: Collection[int]) -> dict[int, list[Path]]:
        """Class id -> image files, sorted by name, however the folders of each class have been moved about.

        Test images are sorted into classes by the official table, whose order the files keep, or by their folders
        val/WNID where the table is gone.
        """
        table = path / "val" / "val_annotations.txt"
        if part == "test" and table.is_file():
            return self._list_by_table(table, classes)
        folder = path / ("train" if part == "train" else "val")
        return {class_id: self._list_class(folder / self.class_names[class_id]) for class_id in classes}

    def _list_class(self, folder: Path) -> list[Path]:
        """The images of a class's folder, or of the folder images in it."""
        inside = folder / "images" if (folder / "images").is_dir() else folder
        if not inside.is_dir():
            raise UserError(f"{inside} is missing: fetch and unpack {self.archives[0].name} again")
        return sorted(list_images(inside, self.passed_over), key=lambda path: path.name)

    def _list_by_table(self, table: Path, classes: Collection[int]) -> dict[int, list[Path]]:
        """Class id -> image files of the official *val* part, sorted by name."""
        ids = {self.class_names[class_id]: class_id for class_id in classes}
        paths: dict[int, list[Path]] = {class_id: [] for class_id in classes}
        for number, line in enumerate(read_text(table).splitlines(), start=1):
            columns = line.split("\t")
            if len(columns) < 2 or Path(columns[0]).name != columns[0]:
                raise UserError(f"{table} line {number}: expected a file name, a tab and a WordNet id; fetch it again")
            if columns[1] in ids:
                paths[ids[columns[1]]].append(_find_moved(table.parent, *columns[:2]))
        return {class_id: sorted(found, key=lambda path: path.name) for class_id, found in paths.items()}


def _find_moved(folder: Path, name: str, wnid: str) -> Path:
    """An image of *val* where its authors put it, or where people move it."""
    official = folder / "images" / name
    moved = (folder / wnid / name, folder / wnid / "images" / name)
    return official if official.is_file() else next(filter(Path.is_file, moved), official)
