"""CIFAR-10 and CIFAR-100 (Krizhevsky): colour 32x32 images in Python pickles."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nas_osr.data.sources.base import Archive, Source
from nas_osr.data.sources.official_files import check_labels, has_checksum, read_whole
from nas_osr.data.sources.pickles import uint8_matrix, unpickle
from nas_osr.errors import UserError

if TYPE_CHECKING:
    from nas_osr.data.sources.base import Arrays

logger = logging.getLogger(__name__)

_SITE = "https://www.cs.toronto.edu/~kriz"


class CIFAR10(Source):
    """Objects and animals; normalised as the open-set literature does (std is the mean over images)."""

    name = "cifar10"
    class_names: Sequence[str] = (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
    )  # fmt: skip
    file_shape = image_shape = (3, 32, 32)
    mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    counts = {"train": 50000, "test": 10000}
    official = "cifar-10-batches-py"
    checksums = {
        "train": {
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
        "test": {"test_batch": "40351d587109b95175f43aff81a1287e"},
    }
    label_key = "labels"
    archives = (Archive((f"{_SITE}/cifar-10-python.tar.gz",), "c58f30108f718f92721af3b95e74349a"),)
    megabytes = 170

    def read_official(self, path: Path, part: str, classes: Collection[int], limit: int | None) -> Arrays:
        """The images of these classes alone: the rest need not be copied."""
        import numpy as np

        images, labels, others = [], [], []
        for name, md5 in self.checksums[part].items():
            content = read_whole(path / name)
            known = has_checksum(content, md5)
            data, ids = self._read_batch(content, path / name, known)
            kept = np.isin(ids, list(classes))
            images.append(data[kept].reshape(-1, *self.file_shape))
            labels.append(ids[kept])
            others += [] if known else [name]
        if others:
            logger.warning(
                "%s: %s: not the official files, so perhaps other images than published ones", path, ", ".join(others)
            )
        return np.concatenate(images), np.concatenate(labels)

    def _read_batch(self, content: bytes, path: Path, known: bool) -> Arrays:
        """uint8 [n, 3072] and class ids [n]"""
        import numpy as np

        try:
            entries = unpickle(content, known=known)
        except Exception as error:  # a damaged pickle can raise nearly anything; nothing in it was run
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{path} cannot be read: {reason}; fetch the official file again") from error
        data, labels = uint8_matrix(entries.get("data")), entries.get(self.label_key)
        if (
            data is None
            or data.shape[1] != 3072
            or not (isinstance(labels, list) and all(type(label) is int for label in labels))
            or len(labels) != len(data)
        ):
            raise UserError(
                f"{path} is not a {self.name} file: it needs 8-bit 'data' [n, 3072] and as many '{self.label_key}'; "
                "fetch the official file again"
            )
        check_labels(labels, len(self.class_names), path)
        return data, np.array(labels, dtype=np.int64)


class CIFAR100(CIFAR10):
    """A hundred classes (the fine labels); normalised as SupContrast does."""

    name = "cifar100"
    class_names = (
        "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle",
        "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle",
        "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur",
        "dolphin", "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo",
        "keyboard", "lamp", "lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree",
        "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree",
        "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine", "possum", "rabbit",
        "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper",
        "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank",
        "telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe",
        "whale", "willow_tree", "wolf", "woman", "worm",
    )  # fmt: skip
    mean, std = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
    official = "cifar-100-python"
    checksums = {
        "train": {"train": "16019d7e3df5f24257cddd939b257f8d"},
        "test": {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    }
    label_key = "fine_labels"
    archives = (Archive((f"{_SITE}/cifar-100-python.tar.gz",), "eb9058c3a382ffc7106e4002c42a8d85"),)
    megabytes = 169
