"""Sources: labelled images, by name; one class each. Free of torch and numpy until images are read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nas_osr.plugins import load_class

if TYPE_CHECKING:
    from nas_osr.data.sources.base import Source

SOURCES: dict[str, str] = {
    "digits": "nas_osr.data.sources.digits:Digits",
    "mnist": "nas_osr.data.sources.mnist:MNIST",
    "fashion-mnist": "nas_osr.data.sources.mnist:FashionMNIST",
    "svhn": "nas_osr.data.sources.svhn:SVHN",
    "cifar10": "nas_osr.data.sources.cifar:CIFAR10",
    "cifar100": "nas_osr.data.sources.cifar:CIFAR100",
    "tinyimagenet": "nas_osr.data.sources.tiny_imagenet:TinyImageNet",
    "folder": "nas_osr.data.sources.folder:OwnFolder",
}


def source_class(name: str, *, import_plugins: bool = False) -> type[Source]:
    """The source of this name or dotted path; UserError when there is none.

    A run folder names its source as well as a command line does, so a plug-in must have been imported already
    (`--plugin`), unless `import_plugins` says that the user named it just now; see `nas_osr.plugins.load_class`.
    """
    from nas_osr.data.sources.base import Source

    return load_class("source", name, SOURCES, Source, import_plugins=import_plugins)


def open_source(
    name: str, data_dir: Path | None = None, image_size: int | None = None, skip_broken: bool = False
) -> Source:
    """The source of this name or dotted path, in a data folder; see `Source`."""
    source = source_class(name)(data_dir, image_size)
    source.skip_broken = skip_broken
    return source
