"""Open-set data in memory: known training and validation images, and a test set that is opened on demand."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nas_osr.data.protocols import Protocol
from nas_osr.data.sources import folder_classes, load_source, resolve_data_dir
from nas_osr.errors import UserError
from nas_osr.seeds import make_generator

VALIDATION_SHARE = 0.1  # of every known class


@dataclass(frozen=True)
class LabelledImages:
    """n images with their labels.

    Attributes:
        images: uint8 [n, C, H, W].
        labels: int64 [n], 0..N-1; N marks unknown images.
        source_labels: int64 [n], class ids in the source that each image came from (for label N: the unknown source).
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


class OpenSetData:
    """The data of one protocol; `load_data` makes it.

    Attributes:
        protocol: the protocol.
        train, validation: known images only; disjoint parts of the source's training images.
    """

    def __init__(
        self,
        protocol: Protocol,
        train: LabelledImages,
        validation: LabelledImages,
        data_dir: Path | None,
        limit_per_class: int | None,
    ) -> None:
        self.protocol = protocol
        self.train = train
        self.validation = validation
        self._data_dir = data_dir
        self._limit_per_class = limit_per_class
        self._test: LabelledImages | None = None

    def test(self) -> LabelledImages:
        """Known test images, then unknown ones with label N. Files are opened on the first call and not before."""
        if self._test is None:
            protocol = self.protocol
            known = _load(protocol, "test", list(protocol.label_map), self._data_dir, self._limit_per_class)
            images, source_labels = load_source(
                protocol.unknown_source,
                "test",
                protocol.unknown,
                self._data_dir,
                protocol.image_shape,
                self._limit_per_class,
            )
            self._test = LabelledImages(
                torch.cat([known.images, images]),
                torch.cat([known.labels, torch.full_like(source_labels, protocol.num_known)]),
                torch.cat([known.source_labels, source_labels]),
            )
        return self._test

    def fingerprint(self) -> str:
        """sha256, in hexadecimal, over the known training and validation images and labels."""
        return fingerprint_images(self.train, self.validation)

    def test_fingerprint(self) -> str:
        """The same over the test images, which it opens."""
        return fingerprint_images(self.test())


def fingerprint_images(*parts: LabelledImages) -> str:
    """sha256, in hexadecimal, over images and labels, their shapes and types."""
    digest = hashlib.sha256()
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
) -> OpenSetData:
    """Read the known training images and set a part of every class aside for validation.

    Args:
        data_dir: the data folder; None: the environment variable NAS_OSR_DATA. Not needed for digits.
        seed: draws the validation images, separately for every source class id: they are the same images in search and
            retraining, whatever the other classes and the label order.
        validation_share: of every known class, in (0, 1).
        limit_per_class: use at most the first so many images of every class, in training and testing (at least 2).

    Raises:
        UserError: data missing, corrupt or of another shape; strange arguments.
    """
    if not 0.0 < validation_share < 1.0:
        raise UserError(f"validation_share must lie strictly between 0 and 1, got {validation_share}")
    if limit_per_class is not None and limit_per_class < 2:
        raise UserError(f"limit_per_class must be at least 2, got {limit_per_class}")
    if protocol.source == "folder":
        _check_folder(protocol, resolve_data_dir(data_dir))
    images = _load(protocol, "train", list(protocol.label_map), data_dir, limit_per_class)
    in_validation = torch.zeros(len(images), dtype=torch.bool)
    for class_id in protocol.label_map:
        members = torch.nonzero(images.source_labels == class_id).flatten()
        if len(members) < 2:
            raise UserError(
                f"{protocol.name}: class {class_id} has {len(members)} training image, at least 2 are needed"
            )
        count = min(max(1, round(validation_share * len(members))), len(members) - 1)
        order = torch.randperm(len(members), generator=make_generator(seed, "validation", protocol.source, class_id))
        in_validation[members[order[:count]]] = True
    return OpenSetData(protocol, images.select(~in_validation), images.select(in_validation), data_dir, limit_per_class)


def _load(
    protocol: Protocol, part: str, classes: list[int], data_dir: Path | None, limit: int | None
) -> LabelledImages:
    """Known images of a part, with their labels."""
    images, source_labels = load_source(protocol.source, part, classes, data_dir, protocol.image_shape, limit)
    table = torch.full((max(classes) + 1,), -1)
    for class_id, label in protocol.label_map.items():
        table[class_id] = label
    return LabelledImages(images, table[source_labels], source_labels)


def _check_folder(protocol: Protocol, folder: Path) -> None:
    """The class ids of `folder` are positions among its class folders: refuse if those have changed since."""
    names, _ = folder_classes(folder)
    ids = list(protocol.label_map)
    expected = [name for group in protocol.known_names for name in group]
    if protocol.unknown_source == "folder":
        ids, expected = [*ids, *protocol.unknown], [*expected, *protocol.unknown_names]
    if len(names) <= max(ids) or any(names[class_id] != name for class_id, name in zip(ids, expected, strict=True)):
        raise UserError(f"{folder} has other class folders ({', '.join(names)}) than the protocol was made from")
