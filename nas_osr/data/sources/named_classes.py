"""What a source says of its classes: their names, and the numbers that stand for them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, TypeVar

from nas_osr.errors import UserError

Selected = TypeVar("Selected", bound="NamedClasses")


class NamedClasses:
    """Classes by name. A class id is the position in `class_names`, and no more than that.

    Attributes:
        name: of the source, in messages.
        numbered: class ids are official label numbers; elsewhere they are the order of one run.
    """

    name: str
    numbered = True

    @property
    def class_names(self) -> Sequence[str]:
        """In the order of the official label numbers: a class id is the position. A class attribute in most."""
        raise NotImplementedError

    @property
    def trainable(self) -> frozenset[int]:
        """The class ids that have training images."""
        return frozenset(range(len(self.class_names)))

    @property
    def testable(self) -> frozenset[int]:
        """The class ids that have test images."""
        return frozenset(range(len(self.class_names)))

    @property
    def where(self) -> str:
        """What messages call it: its name, or the folder of a user's own images."""
        return self.name

    def ids(self, names: Iterable[str]) -> list[int]:
        """The class ids of these classes; UserError names one that there is not, or not any more."""
        numbers = {name: class_id for class_id, name in enumerate(self.class_names)}
        found = []
        for name in names:
            if name not in numbers:
                raise UserError(f"{self.where} has no class {name}: it was renamed or removed, or never there")
            found.append(numbers[name])
        return found

    def select(self: Selected, known: Iterable[Any], unknown: Iterable[Any] = ()) -> Selected:
        """The source as a run with these classes sees it; official label numbers stay as they are."""
        return self

    def draw_key(self, class_id: int) -> int | str:
        """What random draws call a class, so that they are the same whatever other classes there are."""
        return class_id if self.numbered else self.class_names[class_id]

    def tell_known(self, avoided: Collection[int]) -> list[int]:
        """The classes that are known where nobody says so; UserError where that cannot be told."""
        shown = ", ".join(self.class_names)
        raise UserError(f"{self.name} needs known classes or a seed that draws them; its classes are {shown}")

    def settle_shape(self, known: Sequence[int], grey: bool | None) -> None:
        """Choose `image_shape`, `mean` and `std` where they are a user's choice, or are told by known images."""
        if grey is not None:
            raise UserError(f"grey is for the protocol folder; {self.name} has fixed channels")

    def say_what_was_told(
        self, known: Sequence[Sequence[int]], unknown: Sequence[int], given: Sequence[object]
    ) -> None:
        """A line of what is told by looking into a folder, and what is left there; here nothing is.

        Args:
            known, unknown: class ids, as in `Protocol`.
            given: what the user says of known, unknown, image size and grey; None where it was told.
        """

    def say_what_is_left(self, used: Collection[int]) -> None:
        """A line of the classes in a folder that are not among these; here nothing is said."""
