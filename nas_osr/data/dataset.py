"""Open-set data in memory: known training and validation images, and a test set that is opened on demand."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nas_osr.data.counting import describe_counts
from nas_osr.data.protocols import REHEARSAL, Protocol
from nas_osr.data.sources import open_source
from nas_osr.data.sources.base import Source
from nas_osr.errors import UserError
from nas_osr.seeds import make_generator

logger = logging.getLogger(__name__)

VALIDATION_SHARE = 0.1  # of every known class
REHEARSAL_SHARE = 0.2  # of every class: what a rehearsal takes from training images for its test


@dataclass(frozen=True)
class LabelledImages:
    """n images with their labels.

    Attributes:
        images: uint8 [n, C, H, W].
        labels: int64 [n], 0..N-1; N marks unknown images.
        source_labels: int64 [n], class ids in the source that each image came from (for label N: the unknown source):
            official label numbers, or in own folders the order of the run's known and unknown classes.
    """

    images: Tensor
    labels: Tensor
    source_labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, index: Tensor) -> LabelledImages:
        """The images at an integer or boolean index, in its order."""
        index = index.to(self.labels.device)
        return LabelledImages(self.images[index], self.labels[index], self.source_labels[index])

    def to(self, device: str | torch.device) -> LabelledImages:
        """The same on another device."""
        return LabelledImages(self.images.to(device), self.labels.to(device), self.source_labels.to(device))


@dataclass
class OpenSetData:
    """The data of one protocol; `load_data` makes it.

    Attributes:
        protocol: the protocol.
        train, validation: known images only; disjoint parts of the source's training images.
        source, unknown_source: where test images come from, as the run sees them.
        limit_per_class, quiet: as for `load_data`.
    """

    protocol: Protocol
    train: LabelledImages
    validation: LabelledImages
    source: Source
    unknown_source: Source
    limit_per_class: int | None = None
    quiet: bool = True
    _test: LabelledImages | None = None

    def test(self) -> LabelledImages:
        """Known test images, then unknown ones with label N. Files are opened on the first call and not before.

        Those of a rehearsal are training images that have been set aside, and no file is opened. Known classes without
        a test image are left out; a line says so.
        """
        if self._test is None:
            protocol = self.protocol
            tested = [
                class_id for class_id in self.source.ids(protocol.known_classes) if class_id in self.source.testable
            ]
            missing = [name for name in protocol.known_classes if self.source.ids([name])[0] not in tested]
            if missing:
                logger.warning(
                    "%s: no test images, so each counts as 0 in macro-F1 and nowhere else: %s",
                    self.source.where, ", ".join(missing),
                )  # fmt: skip
            known = _load(protocol, self.source, "test", tested, self.limit_per_class, self.quiet)
            images, source_labels = self.unknown_source.load(
                "test", self.unknown_source.ids(protocol.unknown), protocol.image_shape, self.limit_per_class
            )
            _say(protocol, "test, unknown", self.unknown_source, source_labels, self.quiet)
            self._test = join_test(known, images, source_labels, protocol)
        return self._test

    def names(self) -> tuple[dict[int, str], dict[int, str]]:
        """Class id -> name, of the known classes and of the unknown ones."""
        protocol = self.protocol
        known, unknown = self.source.ids(protocol.known_classes), self.unknown_source.ids(protocol.unknown)
        return (
            dict(zip(known, protocol.known_classes, strict=True)),
            dict(zip(unknown, protocol.unknown, strict=True)),
        )

    def fingerprint(self) -> str:
        """sha256, in hexadecimal, over the known training and validation images, labels, and names of own classes."""
        names = () if self.source.numbered else self.protocol.known_classes
        return fingerprint_images(self.train, self.validation, names=names)

    def test_fingerprint(self) -> str:
        """The same over the test images, which it opens."""
        names = () if self.unknown_source.numbered else self.protocol.unknown
        return fingerprint_images(self.test(), names=names)


def join_test(known: LabelledImages, images: Tensor, source_labels: Tensor, protocol: Protocol) -> LabelledImages:
    """Known images and then those of unknown classes (uint8 [n, C, H, W]; class ids [n]), which get the label N."""
    return LabelledImages(
        torch.cat([known.images, images]),
        torch.cat([known.labels, torch.full_like(source_labels, protocol.num_known)]),
        torch.cat([known.source_labels, source_labels]),
    )


def fingerprint_images(*parts: LabelledImages, names: Sequence[str] = ()) -> str:
    """sha256, in hexadecimal, over images and labels, their shapes and types, and names of classes."""
    digest = hashlib.sha256("".join(f"{name}/" for name in names).encode(errors="surrogateescape"))
    for part in parts:
        for tensor in (part.images, part.labels, part.source_labels):
            digest.update(f"{list(tensor.shape)} {tensor.dtype};".encode())
            digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def load_data(
    protocol: Protocol,
    data_dir: Path | None = None,
    seed: int = 0,
    validation_share: float = VALIDATION_SHARE,
    limit_per_class: int | None = None,
    unknown_source: Source | None = None,
    skip_broken: bool = False,
    quiet: bool = True,
) -> OpenSetData:
    """Read the known training images and set a part of every class aside for validation.

    A line says how many each class has, and so it does of test images when they are opened.

    For a rehearsal (`nas_osr.data.rehearsal`) another part, `REHEARSAL_SHARE`, becomes the known test images; as large
    a part of the training images of each class that plays the unknown joins it. Nothing else is ever opened then.

    Args:
        data_dir: the data folder; None: the environment variable NAS_OSR_DATA. Not needed for digits.
        seed: draws the validation images, separately for every class: they are the same images in search and
            retraining, whatever the other classes and the label order.
        validation_share: of every known class, in (0, 1).
        limit_per_class: use at most the first so many images of every class, in training and testing (at least 2).
        unknown_source: where the unknown images are, if that is not the protocol's source in `data_dir`.
        skip_broken: pass over image files that cannot be read.
        quiet: say nothing unless something is passed over.

    Raises:
        UserError: data missing, corrupt or of another shape; strange arguments.
    """
    if not 0.0 < validation_share < 1.0:
        raise UserError(f"validation_share must lie strictly between 0 and 1, got {validation_share}")
    if limit_per_class is not None and limit_per_class < 2:
        raise UserError(f"limit_per_class must be at least 2, got {limit_per_class}")
    rehearsal = protocol.family == REHEARSAL
    source = open_source(protocol.source, data_dir, skip_broken=skip_broken)
    if unknown_source is None and protocol.unknown_source == protocol.source:
        known = [*protocol.known_classes, *(protocol.unknown if rehearsal else ())]
        source = others = source.select(known, () if rehearsal else protocol.unknown)
    else:
        others = unknown_source or open_source(protocol.unknown_source, data_dir, skip_broken=skip_broken)
        source, others = source.select(protocol.known_classes), others.select((), protocol.unknown)
    ids = source.ids(protocol.known_classes)
    images = _load(protocol, source, "train", ids, limit_per_class, quiet)
    shares = (validation_share, REHEARSAL_SHARE) if rehearsal else (validation_share,)
    parts = _divide(protocol, source, images.source_labels, ids, shares, seed)
    validation, train = images.select(parts == 1), images.select(parts == 0)
    if not rehearsal:
        return OpenSetData(protocol, train, validation, source, others, limit_per_class, quiet)
    pseudo = source.ids(protocol.unknown)
    unknown, source_labels = source.load("train", pseudo, protocol.image_shape, limit_per_class)
    _say(protocol, "train, playing the unknown", source, source_labels, quiet)
    chosen = _divide(protocol, source, source_labels, pseudo, shares, seed) == 2
    test = join_test(images.select(parts == 2), unknown[chosen], source_labels[chosen], protocol)
    return OpenSetData(protocol, train, validation, source, others, limit_per_class, quiet, test)


def _divide(
    protocol: Protocol,
    source: Source,
    source_labels: Tensor,
    classes: Sequence[int],
    shares: Sequence[float],
    seed: int,
) -> Tensor:
    """For each image [n] the number of the part that it is in: 0 is the rest, i + 1 has `shares[i]` of every class.

    Every part has an image of every class. Raises UserError when a class has too few for that.
    """
    part = torch.zeros(len(source_labels), dtype=torch.long)
    for class_id in classes:
        members = torch.nonzero(source_labels == class_id).flatten()
        if len(members) <= len(shares):
            raise UserError(
                f"{source.where}: training images of class {source.class_names[class_id]}: {len(members)}, "
                f"at least {len(shares) + 1} are needed"
            )
        generator = make_generator(seed, "validation", protocol.source, source.draw_key(class_id))
        order = torch.randperm(len(members), generator=generator)
        start = 0
        for number, share in enumerate(shares, start=1):
            left = len(members) - start - (len(shares) - number + 1)  # one for every later part and for the rest
            count = min(max(1, round(share * len(members))), left)
            part[members[order[start : start + count]]] = number
            start += count
    return part


def _load(
    protocol: Protocol, source: Source, part: str, classes: list[int], limit: int | None, quiet: bool
) -> LabelledImages:
    """Known images of a part, with their labels."""
    images, source_labels = source.load(part, classes, protocol.image_shape, limit)
    _say(protocol, f"{part}, known", source, source_labels, quiet)
    label_map = {source.ids([name])[0]: label for name, label in protocol.label_map.items()}
    table = torch.full((max(label_map) + 1,), -1)
    for class_id, label in label_map.items():
        table[class_id] = label
    return LabelledImages(images, table[source_labels], source_labels)


def _say(protocol: Protocol, what: str, source: Source, source_labels: Tensor, quiet: bool) -> None:
    """One line on images that have just been loaded; where files were passed over also when quiet."""
    ids, counts = source_labels.unique(return_counts=True)
    names = [source.class_names[class_id] for class_id in ids.tolist()]
    line = describe_counts(dict(zip(names, counts.tolist(), strict=True)), source.passed_over)
    logger.log(
        logging.WARNING if source.passed_over or not quiet else logging.INFO,
        "%s (%s, %s): %s", protocol.name, source.name, what, line,
    )  # fmt: skip
