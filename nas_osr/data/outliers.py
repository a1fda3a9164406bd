"""Given unknown images for objectives that learn from them: training images of classes that a protocol never shows."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from nas_osr.data.protocols import Protocol
from nas_osr.data.sources import open_source
from nas_osr.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from nas_osr.data.dataset import OpenSetData

logger = logging.getLogger(__name__)


def outlier_classes(name: str, protocol: Protocol, data_dir: Path | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the classes of a source that may serve as outliers, and of those that may not.

    A class that the protocol knows, or tests as unknown, never serves, nor does any of the same name (the digit 7 of
    MNIST and of SVHN). Training on it would give the answer away. The source "folder" is the user's own images.

    Raises:
        UserError: there is no such source, or no class is left.
    """
    source = open_source(name, data_dir)
    taken = {*protocol.known_classes, *protocol.unknown}
    candidates = [source.class_names[class_id] for class_id in sorted(source.trainable)]
    kept = tuple(shown for shown in candidates if shown not in taken)
    if not kept:
        raise UserError(
            f"outliers: every class of {name} is known or unknown in protocol {protocol.name}: choose another source"
        )
    return kept, tuple(shown for shown in candidates if shown in taken)


def load_outliers(
    name: str,
    protocol: Protocol,
    data_dir: Path | None = None,
    limit_per_class: int | None = None,
    skip_broken: bool = False,
) -> Tensor:
    """Training images of the `outlier_classes` of a source, in the protocol's shape; a warning names the other classes.

    Returns:
        uint8 [n, C, H, W], n at least 1; of each class the first `limit_per_class`, without broken ones where
        `skip_broken` is set. Converted as `Source.load` does.

    Raises:
        UserError: there is no such source, no class is left, or images are missing, corrupt or of a wrong shape.
    """
    kept, left_out = outlier_classes(name, protocol, data_dir)
    if left_out:
        logger.warning(
            "outliers: %d classes of %s are left out, because %s knows or tests them: %s",
            len(left_out), name, protocol.name, ", ".join(left_out),
        )  # fmt: skip
    source = open_source(name, data_dir, skip_broken=skip_broken)
    images, _ = source.load("train", source.ids(kept), protocol.image_shape, limit_per_class)
    if source.passed_over:
        logger.warning("outliers: %s train: passed over: %s", name, source.passed_over)
    return images


def fingerprint_learned(data: OpenSetData, outliers: Tensor | None) -> str:
    """What a run has learned from: the data's own fingerprint, then "+" and sha256 of the outliers if there are any."""
    if outliers is None:
        return data.fingerprint()
    digest = hashlib.sha256(f"{list(outliers.shape)};".encode())
    digest.update(outliers.cpu().contiguous().numpy().data)
    return f"{data.fingerprint()}+{digest.hexdigest()}"
