"""Protocols: which classes are known, which are unknown, and how source class ids become labels."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from nas_osr.data.known_classes import parse_known
from nas_osr.data.sources import open_source, source_class
from nas_osr.data.sources.base import Shape, Source
from nas_osr.data.tasks import Task, find_task, published_splits
from nas_osr.errors import UserError
from nas_osr.plain import plain

REHEARSAL = "rehearsal"  # see `nas_osr.data.rehearsal`


@dataclass(frozen=True)
class Protocol:
    """An open-set task: N known labels from one source, unknown classes from the same or another one.

    Attributes:
        name: the protocol's name, e.g. "cifar+10".
        family: "arpl", "neal", "nas_osr" (published), "explicit" or "seeded"; "rehearsal" where known classes of
            one of these play the unknown.
        split: index inside the family.
        source: where known images come from.
        known: for each label 0..N-1 in order, the source class ids that carry it (more than one when merged).
        unknown_source, unknown: where unknown test images come from, and their class ids there.
        image_shape: (C, H, W); H and W are multiples of 16.
        mean, std: per channel, for images in [0, 1].
        pseudo_unknown: labels that the `nas_osr` family's own search held out; None elsewhere.
        known_names, unknown_names: class names, laid out as `known` and `unknown`.
    """

    name: str
    family: str
    split: int
    source: str
    known: tuple[tuple[int, ...], ...]
    unknown_source: str
    unknown: tuple[int, ...]
    image_shape: Shape
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pseudo_unknown: tuple[int, ...] | None = None
    known_names: tuple[tuple[str, ...], ...] = ()
    unknown_names: tuple[str, ...] = ()

    @property
    def num_known(self) -> int:
        """N, the number of known labels; N itself is the label of unknown images."""
        return len(self.known)

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per known label; merged classes are joined by "+"."""
        names = self.known_names or tuple(tuple(map(str, group)) for group in self.known)
        return tuple("+".join(group) for group in names)

    @property
    def mirrors(self) -> bool:
        """Whether a known image's mirror image shows the same class; a digit's does not."""
        return source_class(self.source).mirrors

    @property
    def label_map(self) -> dict[int, int]:
        """Source class id -> label in 0..N-1, for known classes."""
        return {class_id: label for label, group in enumerate(self.known) for class_id in group}

    def to_dict(self) -> dict[str, Any]:
        """A plain description: numbers, strings and lists only. `from_dict` reads it."""
        return plain(self, "protocol")

    @classmethod
    def from_dict(cls, description: dict[str, Any]) -> Protocol:
        """The inverse of `to_dict`; raises UserError when fields are missing, strange or contradict each other."""
        names = [field.name for field in fields(cls)]
        if not isinstance(description, dict) or sorted(description) != sorted(names):
            raise UserError(f"not a protocol description: it must have exactly the fields {', '.join(names)}")
        protocol = cls(**{name: _as_tuples(value) for name, value in description.items()})
        ids = [class_id for group in protocol.known for class_id in group] + list(protocol.unknown)
        if not all(type(class_id) is int and class_id >= 0 for class_id in ids):
            raise UserError("protocol description: known and unknown must hold class ids (whole numbers from 0)")
        if len(protocol.label_map) != sum(map(len, protocol.known)):
            raise UserError("protocol description: a class is known twice")
        return protocol


def make_protocol(
    name: str,
    split: int = 0,
    *,
    family: str = "arpl",
    known: Sequence[Any] | None = None,
    seed: int | None = None,
    data_dir: Path | None = None,
    image_size: int | None = None,
) -> Protocol:
    """The protocol of that name.

    Args:
        name: one of `PROTOCOLS`, or the name or dotted path of a source; then `known` or `seed` is needed.
        split: index inside the family; with a seed, the index of the draw.
        family: "arpl" (labels follow list order), "neal" (labels follow sorted order) or "nas_osr" (list order, with
            published pseudo-unknown classes). With `known` it only chooses cifar+N's unknown classes.
        known: explicit known classes, ids or names, in label order; a nested list merges classes into one label. All
            other classes of the source are unknown.
        seed: draws the known classes instead; cifar+N then follows Neal et al.: the four vehicles of CIFAR-10 against
            animals of CIFAR-100.
        data_dir: only where the classes are found in it, as for `folder`: holds {train,test}/CLASS.
        image_size: only where images of any size are converted: side in pixels, a multiple of 16 (default 32).

    Raises:
        UserError: unknown name, family, split or class; a class twice; fewer than two known labels.
    """
    task = find_task(name)
    if known is not None and seed is not None:
        raise UserError("give known classes or a seed that draws them, not both")
    if type(split) is not int or split < 0:
        raise UserError(f"split must be a whole number from 0, got {split!r}")
    source = open_source(task.source, data_dir, image_size)
    lists: Mapping[str, Any] = {}
    chosen: Sequence[Any]  # class ids, or tuples of them where merged
    unknown: list[int] | None  # all others of the source
    if task.closed:
        if known is not None or seed is not None or family != "arpl" or split != 0:
            raise UserError(f"{name} is closed: it has split 0 only, and takes no known classes, seed or family")
        chosen, unknown = list(range(len(source.class_names))[: task.num_known]), []
    elif task.open_choice and family not in ("arpl", "explicit", "seeded"):
        raise UserError(f"{name} has no splits of family {family!r}: give known classes or a seed")
    elif known is not None:
        chosen, unknown = _choose(name, split, family, task, source, known)
        family = "explicit"
    elif seed is not None:
        chosen, unknown = _draw(name, split, task, source, seed)
        family = "seeded"
    elif task.open_choice:
        shown = ", ".join(source.class_names)
        raise UserError(f"{name} needs known classes or a seed that draws them; its classes are {shown}")
    else:
        lists = _split_lists(name, family, task)
        _check_split(f"{name} of family {family}", split, len(lists["known"]))
        chosen = sorted(lists["known"][split]) if family == "neal" else lists["known"][split]
        unknown = lists["unknown_cifar100"][split] if task.unknown_source else None
    groups = tuple(entry if isinstance(entry, tuple) else (entry,) for entry in chosen)
    label_map = {class_id: label for label, group in enumerate(groups) for class_id in group}
    if unknown is None:
        unknown = [class_id for class_id in range(len(source.class_names)) if class_id not in label_map]
    unknown_source = source if task.unknown_source is None else open_source(task.unknown_source, data_dir)
    pseudo = lists.get("pseudo_unknown")
    return Protocol(
        name=name,
        family=family,
        split=split,
        source=task.source,
        known=groups,
        unknown_source=task.unknown_source or task.source,
        unknown=tuple(unknown),
        image_shape=source.image_shape,
        mean=source.mean,
        std=source.std,
        pseudo_unknown=None if pseudo is None else tuple(label_map[class_id] for class_id in pseudo[split]),
        known_names=tuple(tuple(source.class_names[class_id] for class_id in group) for group in groups),
        unknown_names=tuple(unknown_source.class_names[class_id] for class_id in unknown),
    )


def with_unknown(protocol: Protocol, source: str, data_dir: Path | None = None) -> Protocol:
    """The same known classes against all classes of another source (of its test images), e.g. CIFAR-10 against SVHN."""
    names = open_source(source, data_dir).class_names
    if protocol.family == REHEARSAL:
        raise UserError("a rehearsal opens no test images, so no other source can play the unknown")
    taken = protocol.label_map if source == protocol.source else {}
    unknown = tuple(class_id for class_id in range(len(names)) if class_id not in taken)
    return replace(
        protocol, unknown_source=source, unknown=unknown, unknown_names=tuple(names[class_id] for class_id in unknown)
    )


def _split_lists(name: str, family: str, task: Task) -> dict[str, Any]:
    if family not in task.lists:
        if family in ("explicit", "seeded"):
            raise UserError(f"family {family} comes with {'known' if family == 'explicit' else 'a seed'}: give it")
        raise UserError(f"{name} has no splits of family {family!r}: choose {' or '.join(task.lists)}")
    return published_splits()[family][task.lists[family]]


def _check_split(what: str, split: int, count: int) -> None:
    if split >= count:
        raise UserError(f"{what} has {f'splits 0 to {count - 1}' if count > 1 else 'split 0 only'}, not {split}")


def _choose(
    name: str, split: int, family: str, task: Task, source: Source, known: Sequence[Any]
) -> tuple[Sequence[Any], list[int] | None]:
    """Known classes as the user gives them, and unknown ones; None: all other classes of the source."""
    unknown = None
    if task.unknown_source:
        lists = _split_lists(name, "arpl" if family == "explicit" else family, task)
        _check_split(f"the unknown list of {name}", split, len(lists["unknown_cifar100"]))
        unknown = lists["unknown_cifar100"][split]
    else:
        _check_split("an explicit choice of known classes", split, 1)
    groups = parse_known(known, source.class_names, name)
    untrained = {class_id for group in groups for class_id in group} - source.trainable
    if untrained:
        shown = source.class_names[min(untrained)]
        raise UserError(f"{name}: class {shown} cannot be known, it has no training images")
    return groups, unknown


def _draw(name: str, split: int, task: Task, source: Source, seed: int) -> tuple[Sequence[Any], list[int] | None]:
    """Known and unknown classes as in `_choose`, drawn: the draw number `split` of `random.sample` after seeding.

    So were the sets of the `nas_osr` family drawn, too.
    """
    known = None
    if task.unknown_source:
        neal = published_splits()["neal"]["cifar+50"]
        known, population, count = neal["known"][0], neal["unknown_cifar100"][0], task.num_unknown
    else:
        population = sorted(source.trainable)
        count = task.num_known or max(2, round(0.6 * len(source.class_names)))
        if count > len(population):
            raise UserError(f"{name}: {count} known classes are to be drawn, but train has {len(population)} classes")
    generator = random.Random(seed)
    for _ in range(split):
        generator.sample(population, count)
    drawn = generator.sample(population, count)
    return (drawn, None) if known is None else (known, drawn)


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, (list, tuple)) else value
