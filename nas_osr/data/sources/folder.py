"""A user's own images: {train,test}/CLASS in the data folder, whatever the classes, sizes and modes."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from nas_osr.data.sources.base import SOURCE_PARTS, Source
from nas_osr.data.sources.listing import list_class_folders
from nas_osr.errors import UserError


class OwnFolder(Source):
    """Classes are the folders of both parts, sorted by name; normalised with ImageNet's statistics."""

    name = "folder"
    image_shape = (3, 32, 32)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    any_size = True
    subfolder = ""

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """All names; raises UserError when there are none."""
        names = tuple(sorted({name for part in SOURCE_PARTS for name in self._folders(part)}))
        if not names:
            raise UserError(f"{self.folder} has no class folders: the protocol folder needs {self.layout}.png|jpg|webp")
        return names

    @property
    def trainable(self) -> frozenset[int]:
        """A class with test images alone can only be unknown."""
        return frozenset(map(self.class_names.index, self._folders("train")))

    def class_folders(self, folder: Path) -> dict[int, Path]:
        """Class id -> folder, of the classes that this part has."""
        paths = {class_id: folder / name for class_id, name in enumerate(self.class_names)}
        return {class_id: path for class_id, path in paths.items() if path.is_dir()}

    def _folders(self, part: str) -> list[str]:
        if self.find(part) is None:
            raise UserError(f"{self.folder / part} is missing: the protocol folder needs {self.layout}.png|jpg|webp")
        return list_class_folders(self.folder / part)
