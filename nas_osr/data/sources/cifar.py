"""CIFAR-10 and CIFAR-100 (Krizhevsky): colour 32x32 images in Python pickles."""

from __future__ import annotations

import pickle
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from nas_osr.data.sources.base import Arrays, Source
from nas_osr.data.sources.official_files import read_official
from nas_osr.data.sources.places import Archive

_SITE = "https://www.cs.toronto.edu/~kriz"


class CIFAR10(Source):
    """Objects and animals; normalised as the open-set literature does (std is the mean over images)."""

    name = "cifar10"
    class_names: Sequence[str] = (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
    )  # fmt: skip
    aliases: Mapping[str, Sequence[str]] = {
        "airplane": ("plane", "aeroplane"),
        "automobile": ("car", "auto"),
        "truck": ("lorry",),
    }
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
        """The images of these classes alone: the rest need not be copied. No file but official ones is unpickled."""
        import numpy as np

        images, labels = [], []
        for name, md5 in self.checksums[part].items():
            entries = pickle.loads(read_official(path / name, md5, self.name), encoding="latin1")  # noqa: S301
            ids = np.array(entries[self.label_key], dtype=np.int64)
            kept = np.isin(ids, list(classes))
            images.append(entries["data"][kept].reshape(-1, *self.file_shape))
            labels.append(ids[kept])
        return np.concatenate(images), np.concatenate(labels)


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
    aliases = {  # the page of the data set has other forms than its files
        **{f"{tree}_tree": (tree,) for tree in ("maple", "oak", "palm", "pine", "willow")},
        **{name: (f"{name}s",) for name in ("apple", "bottle", "bowl", "can", "cup", "mushroom", "orange", "orchid")},
        **{name: (f"{name}s",) for name in ("pear", "plate", "rose", "sunflower", "tulip")},
        "couch": ("sofa",),
        "keyboard": ("computer keyboard",),
        "motorcycle": ("motorbike",),
        "pickup_truck": ("pickup",),
        "poppy": ("poppies",),
        "possum": ("opossum",),
        "streetcar": ("tram",),
        "sweet_pepper": ("sweet peppers",),
        "telephone": ("phone",),
        "television": ("TV",),
    }
    mean, std = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
    official = "cifar-100-python"
    checksums = {
        "train": {"train": "16019d7e3df5f24257cddd939b257f8d"},
        "test": {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    }
    label_key = "fine_labels"
    archives = (Archive((f"{_SITE}/cifar-100-python.tar.gz",), "eb9058c3a382ffc7106e4002c42a8d85"),)
    megabytes = 169
