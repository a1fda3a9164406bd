"""Data: class splits, image sources, in-memory batches, augmentation. Public names load on first use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "Protocol": "protocols",
    "PROTOCOLS": "tasks",
    "make_protocol": "protocols",
    "with_unknown": "protocols",
    "SOURCES": "sources",
    "open_source": "sources",
    "load_data": "dataset",
    "OpenSetData": "dataset",
    "LabelledImages": "dataset",
    "iterate_batches": "batches",
    "to_float": "batches",
    "AugmentationConfig": "augmentation",
    "augment": "augmentation",
    "default_augmentation": "augmentation",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
