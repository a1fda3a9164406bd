"""A user's own images: CLASS or {train,test}/CLASS in the data folder, whatever the classes, sizes and modes."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from nas_osr.data.sources.base import SOURCE_PARTS, Arrays, Shape, Source
from nas_osr.data.sources.listing import PassedOver, list_class_folders, list_images
from nas_osr.data.sources.places import Location
from nas_osr.errors import UserError

logger = logging.getLogger(__name__)

TEST_SHARE = 0.2  # of the images that are to be divided
UNKNOWN = "unknown"  # a class folder of this name is never known
SMALL, LARGE = 32, 64  # sides: where every known image is as small as the first, and else
GREY_MEAN, GREY_STD = (0.458,), (0.226,)  # ImageNet's, weighted as grey is (ITU-R 601)


class OwnFolder(Source):
    """Classes are folders, and a class is its folder's name; normalised with ImageNet's statistics.

    `{train,test}/CLASS/*` are taken as they are. `CLASS/*` without train and test are divided: about a fifth of a class
    are its test images (`nas_osr.data.sources.division`), but all of an unknown one. The images of a folder `unknown`,
    there or beside train and test, are unknown test images. Images that lie in the folder itself, without a folder of
    their class, are one class of its name where there are no others; it cannot be known.
    """

    name = "folder"
    image_shape = (3, LARGE, LARGE)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    any_size = True
    numbered = False
    subfolder = ""
    layout = "CLASS/* or {train,test}/CLASS/*"

    def __init__(self, data_dir: Path | None = None, image_size: int | None = None) -> None:
        super().__init__(data_dir, image_size)
        self.image_size = image_size
        self._whole = frozenset({UNKNOWN})

    def select(self, known: Iterable[Any], unknown: Iterable[Any] = ()) -> OwnFolder:
        """The same folder with these classes alone, whatever else is or comes into it; ids are their order here.

        The folder is not looked at: a class that is not there is missed when its images are read.
        """
        names, others = list(map(str, known)), list(map(str, unknown))
        chosen = type(self)(self.data_dir, self.image_size)
        chosen.class_names = (*names, *others)
        chosen.trainable = frozenset(class_id for class_id, name in enumerate(names) if name != UNKNOWN)
        chosen._whole = self._whole | frozenset(others)
        chosen.skip_broken = self.skip_broken
        return chosen

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """All names, sorted; raises UserError when there are none."""
        names = {name for part in SOURCE_PARTS for name in self._list(part)}
        if not names:
            raise UserError(f"{self.folder} has no class folders: the protocol folder needs {self.layout}")
        return tuple(sorted(names))

    @property
    def where(self) -> str:
        """The folder."""
        return f"folder {self.folder}"

    @cached_property
    def has_parts(self) -> bool:
        """Whether it is divided into train and test. UserError when there are classes in train, but no test."""
        train, test = ((self.folder / part).is_dir() for part in SOURCE_PARTS)
        if train and not test and list_class_folders(self.folder / "train"):
            raise UserError(
                f"{self.folder / 'test'} is missing: put test images there, in folders of classes, or have all class "
                f"folders in {self.folder} itself, to be divided"
            )
        return train and test

    @cached_property
    def trainable(self) -> frozenset[int]:
        """A class with test images alone, and the folder `unknown`, can only be unknown."""
        names = set(self._list("train")) - {UNKNOWN, self._loose}
        return frozenset(class_id for class_id, name in enumerate(self.class_names) if name in names)

    @cached_property
    def testable(self) -> frozenset[int]:
        """The class ids that have a folder of test images, or one that is to be divided."""
        return frozenset(class_id for class_id, name in enumerate(self.class_names) if self._places("test", name))

    def tell_known(self, avoided: Collection[int]) -> list[int]:
        """Whatever has training images. UserError where these are fewer than two classes."""
        known = sorted(self.trainable - frozenset(avoided))
        if len(known) < 2:
            raise UserError(
                f"{self.folder} has {len(known)} class folders with training images that are not unknown, at least 2 "
                f"are needed: {self.layout}"
            )
        return known

    def settle_shape(self, known: Sequence[int], grey: bool | None) -> None:
        """What is not given is told by the images of known classes: whether one is larger, and whether all are grey."""
        size = self.image_size
        if size is None or grey is None:
            from nas_osr.data.sources.glances import tell_size_and_colour

            larger, all_grey = tell_size_and_colour(
                (path for class_id in known for path in self._images("train", class_id)), SMALL
            )
            size = size or (LARGE if larger else SMALL)
            grey = all_grey if grey is None else grey
        self.image_shape = (1 if grey else 3, size, size)
        if grey:
            self.mean, self.std = GREY_MEAN, GREY_STD

    def say_what_was_told(
        self, known: Sequence[Sequence[int]], unknown: Sequence[int], given: Sequence[object]
    ) -> None:
        """One line of each; where known and unknown classes are given, the folder is not looked at."""
        names = self.class_names
        shown = {
            "known": ", ".join("+".join(names[class_id] for class_id in group) for group in known),
            "unknown": ", ".join(names[class_id] for class_id in unknown) or f"none (name some, or add {UNKNOWN}/)",
            "image_size": str(self.image_shape[1]),
            "grey": "true" if self.image_shape[0] == 1 else "false",
        }
        told = [f"{name} {value}" for (name, value), asked in zip(shown.items(), given, strict=True) if asked is None]
        if told:
            logger.warning("%s: told by its images: %s", self.folder, "; ".join(told))
        if None in given[:2]:
            self.say_what_is_left({class_id for group in known for class_id in group} | set(unknown))

    def say_what_is_left(self, used: Collection[int]) -> None:
        """One line, also of what lies beside train and test."""
        left = [name for class_id, name in enumerate(self.class_names) if class_id not in used]
        if self.has_parts:
            left += [name for name in list_class_folders(self.folder) if name not in (*SOURCE_PARTS, UNKNOWN)]
        if left:
            logger.warning("%s: neither known nor unknown, so not used: %s", self.folder, ", ".join(left))

    def find(self, part: str) -> Location | None:
        """The folder of a part, or that of classes that are to be divided."""
        return Location(self.folder / part if self.has_parts else self.folder, official=False)

    def read(self, part: str, classes: Collection[int], image_shape: Shape, limit: int | None) -> Arrays:
        """The images of these classes alone, the first ones by name."""
        self._count_strays(part)
        return self.read_files({class_id: self._files(part, class_id) for class_id in classes}, image_shape, limit)

    def count_classes(self, part: str, decode: bool = False) -> dict[int, int]:
        """How many images of each class there are in a part; all are read with `decode`. Raises UserError."""
        self.passed_over = PassedOver()
        self._count_strays(part)
        classes = sorted(self.trainable if part == "train" else self.testable)
        files = {class_id: self._files(part, class_id) for class_id in classes}
        listed = [(path, class_id) for class_id in classes for path in files[class_id]]
        broken = self._find_broken([path for path, _ in listed]) if decode else ()
        found = Counter(class_id for index, (_, class_id) in enumerate(listed) if index not in broken)
        return dict(sorted(found.items()))

    def _count_strays(self, part: str) -> None:
        """Count what lies beside the class folders."""
        if self._loose is None:
            list_class_folders(self.folder / part if self.has_parts else self.folder, self.passed_over)

    def count_training(self, classes: Collection[int]) -> dict[int, int]:
        """Training images of these classes; of those that are to be divided the share, for no file is opened."""
        counts = {class_id: len(self._images("train", class_id)) for class_id in classes}
        return {
            class_id: count if self._is_whole(class_id) else round((1 - TEST_SHARE) * count)
            for class_id, count in counts.items()
        }

    def _is_whole(self, class_id: int) -> bool:
        """Whether all images in a class's folder are of one part."""
        return self.has_parts or self.class_names[class_id] in self._whole

    def _files(self, part: str, class_id: int) -> list[Path]:
        """The images of a class in a part, sorted by name; UserError when it has no folder."""
        images = self._images(part, class_id)
        if self._is_whole(class_id):
            return images
        from nas_osr.data.sources.division import divide_images

        return divide_images(images, TEST_SHARE)[part]

    def _images(self, part: str, class_id: int) -> list[Path]:
        """All images in the folders of a class; UserError when there is none."""
        name = self.class_names[class_id]
        places = self._places(part, name)
        if not places:
            folder = self.folder / part if self.has_parts else self.folder
            raise UserError(f"{folder} has no folder for class {name}: bring it back, or choose other classes")
        return [path for place in places for path in list_images(place, self.passed_over)]

    def _places(self, part: str, name: str) -> list[Path]:
        """The folders of a class in a part: one, or two where `unknown` is in test and beside it."""
        folders = [self.folder / name]
        if self.has_parts:
            folders = [self.folder / part / name, *(folders if (part, name) == ("test", UNKNOWN) else [])]
        found = [folder for folder in folders if folder.is_dir()]
        return found or ([self.folder] if name == self._loose else [])

    def _list(self, part: str) -> list[str]:
        """The names of the classes of a part."""
        if not self.has_parts:
            return list_class_folders(self.folder) or ([self._loose] if self._loose else [])
        apart = [UNKNOWN] if part == "test" and (self.folder / UNKNOWN).is_dir() else []
        return [*list_class_folders(self.folder / part), *apart]

    @cached_property
    def _loose(self) -> str | None:
        """What images are called that lie in no folder of a class, where there is none: by the folder itself."""
        if self.has_parts or list_class_folders(self.folder) or not list_images(self.folder):
            return None
        return self.folder.resolve().name
