"""Protocols: which classes are known, which are unknown, and how class names become labels."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from nas_osr.data.known_classes import parse_known, parse_unknown
from nas_osr.data.sources import SOURCES, open_source, source_class
from nas_osr.data.sources.base import Shape, Source
from nas_osr.data.tasks import Task, find_task, published_splits
from nas_osr.errors import UserError
from nas_osr.files.paths import user_path
from nas_osr.plain import plain

logger = logging.getLogger(__name__)

REHEARSAL = "rehearsal"  # see `nas_osr.data.rehearsal`
FORMER_NAMES = {"known_names": "known", "unknown_names": "unknown"}  # in descriptions of earlier versions


@dataclass(frozen=True)
class Protocol:
    """An open-set task: N known labels from one source, unknown classes from the same or another one.

    A class is its name; labels are the order of one run.

    Attributes:
        name: the protocol's name, e.g. "cifar+10".
        family: "arpl", "neal", "nas_osr" (published), "explicit" or "seeded"; "rehearsal" where known classes of
            one of these play the unknown.
        split: index inside the family.
        source: where known images come from.
        known: for each label 0..N-1 in order, the names of the classes that carry it (more than one when merged).
        unknown_source, unknown: where unknown test images come from, and the names of their classes there.
        image_shape: (C, H, W); H and W are multiples of 16.
        mean, std: per channel, for images in [0, 1].
        pseudo_unknown: labels that the `nas_osr` family's own search held out; None elsewhere.
    """

    name: str
    family: str
    split: int
    source: str
    known: tuple[tuple[str, ...], ...]
    unknown_source: str
    unknown: tuple[str, ...]
    image_shape: Shape
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pseudo_unknown: tuple[int, ...] | None = None

    @property
    def num_known(self) -> int:
        """N, the number of known labels; N itself is the label of unknown images."""
        return len(self.known)

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per known label; merged classes are joined by "+"."""
        return tuple("+".join(group) for group in self.known)

    @property
    def known_classes(self) -> tuple[str, ...]:
        """The names of all known classes, in label order, merged ones too."""
        return tuple(name for group in self.known for name in group)

    @property
    def mirrors(self) -> bool:
        """Whether a known image's mirror image shows the same class; a digit's does not."""
        return source_class(self.source).mirrors

    @property
    def label_map(self) -> dict[str, int]:
        """Class name -> label in 0..N-1, for known classes."""
        return {name: label for label, group in enumerate(self.known) for name in group}

    def labels_of(self, names: Sequence[str]) -> list[int]:
        """The labels of known classes; merged ones are named by one of them, or joined by "+". Raises UserError."""
        labels = {**self.label_map, **{name: label for label, name in enumerate(self.class_names)}}
        for name in names:
            if str(name) not in labels:
                raise UserError(
                    f"pseudo_unknown: {name} is not a known class of {self.name}; those are "
                    f"{', '.join(self.class_names)}"
                )
        found = [labels[str(name)] for name in names]
        for name, label in zip(names, found, strict=True):
            if found.count(label) > 1:
                raise UserError(f"pseudo_unknown: {name} is named twice, by itself or by a class merged with it")
        return found

    def to_dict(self) -> dict[str, Any]:
        """A plain description: numbers, strings and lists only. `from_dict` reads it."""
        return plain(self, "protocol")

    @classmethod
    def from_dict(cls, description: dict[str, Any]) -> Protocol:
        """The inverse of `to_dict`; raises UserError when fields are missing, strange or contradict each other."""
        description = rename_former_names(description) if isinstance(description, dict) else {}
        names = [field.name for field in fields(cls)]
        if sorted(description) != sorted(names):
            raise UserError(f"not a protocol description: it must have exactly the fields {', '.join(names)}")
        protocol = cls(**{name: _as_tuples(value) for name, value in description.items()})
        named = [*protocol.known_classes, *protocol.unknown]
        if not all(isinstance(name, str) and name for name in named):
            raise UserError("protocol description: known and unknown must hold names of classes")
        if len(protocol.label_map) != len(protocol.known_classes):
            raise UserError("protocol description: a class is known twice")
        return protocol


def rename_former_names(description: dict[str, Any]) -> dict[str, Any]:
    """A description of a protocol as it is today: in earlier versions known and unknown held numbers beside names."""
    if not description.keys() >= FORMER_NAMES.keys():
        return description
    kept = {name: value for name, value in description.items() if name not in FORMER_NAMES}
    return {**kept, **{today: description[former] for former, today in FORMER_NAMES.items()}}


def make_protocol(
    name: str,
    split: int = 0,
    *,
    family: str = "arpl",
    known: Sequence[Any] | None = None,
    unknown: Sequence[Any] | None = None,
    seed: int | None = None,
    data_dir: Path | None = None,
    image_size: int | None = None,
    grey: bool | None = None,
) -> Protocol:
    """The protocol of that name. A line says what is told by looking into a folder of own images.

    Args:
        name: one of `PROTOCOLS`, or the name or dotted path of a source; then `known` or `seed` is needed, but for
            `folder`: there, whatever has training images and is not unknown is known.
        split: index inside the family; with a seed, the index of the draw.
        family: "arpl" (labels follow list order), "neal" (labels follow sorted order) or "nas_osr" (list order, with
            published pseudo-unknown classes). With `known` it only chooses cifar+N's unknown classes.
        known: explicit known classes by name, in label order; a nested list merges classes into one label. A whole
            number is the official label number where no class of the source is called by a number.
        unknown: the unknown classes, alike; without it all other classes of the source.
        seed: draws the known classes instead; cifar+N then follows Neal et al.: the four vehicles of CIFAR-10 against
            animals of CIFAR-100. With both known and unknown classes it says how they had been drawn.
        data_dir: only where the classes are found in it, as for `folder`.
        image_size, grey: only where images of any size are converted: side in pixels, a multiple of 16, and whether
            they are grey; told by the images when not given.

    Raises:
        UserError: unknown name, family, split or class; a class twice; fewer than two known labels.
    """
    task = find_task(name)
    written_down = known is not None and unknown is not None
    if known is not None and seed is not None and not written_down:
        raise UserError("give known classes or a seed that draws them, not both")
    if type(split) is not int or split < 0:
        raise UserError(f"split must be a whole number from 0, got {split!r}")
    source = open_source(task.source, data_dir, image_size)
    if known is not None and unknown is not None:
        source = source.select(_flatten(known), unknown)
    unknown_source = source if task.unknown_source is None else open_source(task.unknown_source, data_dir)
    given = None if unknown is None else parse_unknown(unknown, unknown_source, name)
    avoided = frozenset(given or ()) if unknown_source is source else frozenset()
    lists: Mapping[str, Any] = {}
    chosen: Sequence[Any]  # class ids, or tuples of them where merged
    others: Sequence[int] | None = None  # class ids; None: all others of the source
    if task.closed:
        if known is not None or seed is not None or family != "arpl" or split != 0:
            raise UserError(f"{name} is closed: it has split 0 only, and takes no known classes, seed or family")
        chosen, others = list(range(len(source.class_names))[: task.num_known]), []
    elif task.open_choice and family not in ("arpl", "explicit", "seeded"):
        raise UserError(f"{name} has no splits of family {family!r}: give known classes or a seed")
    elif known is not None:
        chosen, others = _choose(name, split, family, task, source, known, drawn=seed is not None)
        family = "explicit" if seed is None else "seeded"
    elif seed is not None:
        chosen, others = _draw(name, split, task, source, seed, avoided)
        family = "seeded"
    elif task.open_choice:
        chosen, family = source.tell_known(avoided), "explicit"
        _check_split("an explicit choice of known classes", split, 1)
    else:
        lists = _split_lists(name, family, task)
        _check_split(f"{name} of family {family}", split, len(lists["known"]))
        chosen = sorted(lists["known"][split]) if family == "neal" else lists["known"][split]
        others = lists["unknown_cifar100"][split] if task.unknown_source else None
    groups = tuple(entry if isinstance(entry, tuple) else (entry,) for entry in chosen)
    label_map = {class_id: label for label, group in enumerate(groups) for class_id in group}
    if given is not None:
        if task.closed or lists:
            raise UserError(f"{name}: unknown goes with known classes or a seed; a published split has its own")
        if avoided & label_map.keys():
            both = source.class_names[min(avoided & label_map.keys())]
            raise UserError(f"{name}: class {both} is both known and unknown: leave it out of one")
        others = given
    if others is None:
        others = [class_id for class_id in sorted(unknown_source.testable) if class_id not in label_map]
    names = source.class_names
    source.settle_shape([*label_map], grey)
    source.say_what_was_told(groups, others, (known or seed, unknown, image_size, grey))
    pseudo = lists.get("pseudo_unknown")
    return Protocol(
        name=name,
        family=family,
        split=split,
        source=task.source,
        known=tuple(tuple(names[class_id] for class_id in group) for group in groups),
        unknown_source=task.unknown_source or task.source,
        unknown=tuple(unknown_source.class_names[class_id] for class_id in others),
        image_shape=source.image_shape,
        mean=source.mean,
        std=source.std,
        pseudo_unknown=None if pseudo is None else tuple(label_map[class_id] for class_id in pseudo[split]),
    )


def find_unknown(source: str, data_dir: Path | None = None) -> Source:
    """Where other unknown images come from: a source by its name or dotted path, or a folder of images by its path."""
    if source not in SOURCES and user_path(source).is_dir():
        return open_source("folder", user_path(source))
    return open_source(source, data_dir)


def with_unknown(protocol: Protocol, source: str, data_dir: Path | None = None) -> Protocol:
    """The same known classes against all classes of another source (of its test images), e.g. CIFAR-10 against SVHN.

    Args:
        source: its name or dotted path, or the path of a folder of images, flat or in folders of classes; classes of
            the name of a known one are left out there, and a line says so.
    """
    other = find_unknown(source, data_dir)
    if protocol.family == REHEARSAL:
        raise UserError("a rehearsal opens no test images, so no other source can play the unknown")
    name = source if source in SOURCES or other.name != "folder" else "folder"
    names = [other.class_names[class_id] for class_id in sorted(other.testable)]
    taken = set(protocol.label_map) if name == protocol.source or not other.numbered else set()
    left_out = [shown for shown in names if shown in taken]
    if left_out and name != source:
        logger.warning("%s: left out, since they are known: %s", source, ", ".join(left_out))
    kept = tuple(shown for shown in names if shown not in taken)
    if not kept:
        raise UserError(f"{source} has no class that is not known: choose another one")
    return replace(protocol, unknown_source=name, unknown=kept)


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
    name: str, split: int, family: str, task: Task, source: Source, known: Sequence[Any], *, drawn: bool
) -> tuple[Sequence[Any], Sequence[int] | None]:
    """Known classes as the user gives them, and unknown ones; None: all other classes of the source."""
    unknown = None
    if task.unknown_source:
        lists = _split_lists(name, "arpl" if family in ("explicit", "seeded") else family, task)
        _check_split(f"the unknown list of {name}", split, len(lists["unknown_cifar100"]))
        unknown = lists["unknown_cifar100"][split]
    elif not drawn:
        _check_split("an explicit choice of known classes", split, 1)
    groups = parse_known(known, source, name)
    untrained = {class_id for group in groups for class_id in group} - source.trainable
    if untrained:
        shown = source.class_names[min(untrained)]
        raise UserError(f"{source.where}: class {shown} cannot be known, it has no training images")
    return groups, unknown


def _draw(
    name: str, split: int, task: Task, source: Source, seed: int, avoided: frozenset[int]
) -> tuple[Sequence[Any], Sequence[int] | None]:
    """Known and unknown classes as in `_choose`, drawn: the draw number `split` of `random.sample` after seeding.

    So were the sets of the `nas_osr` family drawn, too. `avoided` ones are unknown.
    """
    known = None
    if task.unknown_source:
        neal = published_splits()["neal"]["cifar+50"]
        known, population, count = neal["known"][0], neal["unknown_cifar100"][0], task.num_unknown
    else:
        population = sorted(source.trainable - avoided)
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


def _flatten(names: Sequence[Any]) -> list[Any]:
    return [one for entry in names for one in (entry if isinstance(entry, (list, tuple)) else [entry])]
