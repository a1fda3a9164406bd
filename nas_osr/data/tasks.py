"""The named open-set tasks, and the published class splits. A new one over a source of this package is a row here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from typing import Any

from nas_osr.data.sources import SOURCES, source_class
from nas_osr.errors import UserError, suggest

FAMILIES = ("arpl", "neal", "nas_osr")


@dataclass(frozen=True)
class Task:
    """How the protocols of one name are made.

    Attributes:
        source: where known images come from.
        num_known: N of a split that is published, drawn or closed; None: draws take 60 % of the classes, closed all.
        lists: for each family of published splits, the name of its lists in splits.json.
        unknown_source: where unknown images come from; None: they are the other classes of `source`.
        num_unknown: how many classes of another `unknown_source` are drawn.
        closed: the first `num_known` classes, and nothing unknown.
    """

    source: str
    num_known: int | None = None
    lists: Mapping[str, str] = field(default_factory=dict)
    unknown_source: str | None = None
    num_unknown: int = 0
    closed: bool = False

    @property
    def open_choice(self) -> bool:
        """Whether nobody has published a split: known classes are the user's choice, or drawn."""
        return not (self.lists or self.closed)


def _published(name: str, families: tuple[str, ...] = FAMILIES) -> dict[str, str]:
    return dict.fromkeys(families, name)


# Any source is a protocol of its own name as well, without published splits (see `find_task`).
PROTOCOLS: dict[str, Task] = {
    "digits": Task("digits", 6, _published("mnist")),
    "mnist": Task("mnist", 6, _published("mnist")),
    "fashion-mnist": Task("fashion-mnist", 6, _published("mnist", ("arpl",))),  # nobody published a list: MNIST's
    "svhn": Task("svhn", 6, _published("svhn")),
    "cifar10": Task("cifar10", 6, _published("cifar10")),
    "cifar+10": Task("cifar10", 4, _published("cifar+10"), "cifar100", 10),
    "cifar+50": Task("cifar10", 4, _published("cifar+50"), "cifar100", 50),
    "tinyimagenet": Task("tinyimagenet", 20, _published("tinyimagenet", ("arpl", "neal"))),
    "svhn-closed": Task("svhn", closed=True),
    "cifar10-closed": Task("cifar10", closed=True),
    "cifar100-closed": Task("cifar100", closed=True),
    "tinyimagenet100-closed": Task("tinyimagenet", 100, closed=True),
    "folder": Task("folder"),
}


def find_task(name: str, *, import_plugins: bool = False) -> Task:
    """The task of that name, or that of a source by its name or dotted path; UserError when there is none.

    `import_plugins`: see `nas_osr.data.sources.source_class`.
    """
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    if name not in SOURCES and "." not in name:
        raise UserError(
            f"unknown protocol {name!r}: choose one of {', '.join(PROTOCOLS)}, or give package.module.Class of a source"
            f"{suggest(name, PROTOCOLS)}"
        )
    source_class(name, import_plugins=import_plugins)
    return Task(name)


@lru_cache(maxsize=1)
def published_splits() -> dict[str, Any]:
    """The published class splits: family -> list name -> {"known": [[...], ...], ...}, as printed by their authors."""
    return json.loads(files("nas_osr.data").joinpath("splits.json").read_text(encoding="utf-8"))


def count_splits(name: str) -> dict[str, int]:
    """Family -> number of published splits of a protocol; empty where there are none."""
    task = find_task(name)
    if task.closed:
        return {"arpl": 1}
    return {family: len(published_splits()[family][key]["known"]) for family, key in task.lists.items()}
