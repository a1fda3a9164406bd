"""Tiny ImageNet (Stanford): colour 64x64 images of 200 classes, numbered by sorted WordNet id."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from nas_osr.data.sources.base import Archive, Arrays, Source
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

    def read_official(self, path: Path, part: str, classes: Collection[int], limit: int | None) -> Arrays:
        """The images of these classes alone, by class id and file name."""
        return self.read_files(self._list_official(path, part, classes), self.image_shape, limit)

    def count_official(self, path: Path, part: str) -> int:
        """Files that are listed."""
        return sum(map(len, self._list_official(path, part, range(len(self.class_names))).values()))

    def _list_official(self, folder: Path, part: str, classes: Collection[int]) -> dict[int, list[Path]]:
        """Class id -> image files, sorted by name."""
        if part == "train":
            return {class_id: _jpegs(folder / "train" / self.class_names[class_id] / "images") for class_id in classes}
        table = folder / "val" / "val_annotations.txt"
        if not table.is_file():
            raise UserError(f"{table} is missing: fetch and unpack the official archive again")
        ids = {self.class_names[class_id]: class_id for class_id in classes}
        paths: dict[int, list[Path]] = {class_id: [] for class_id in classes}
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
