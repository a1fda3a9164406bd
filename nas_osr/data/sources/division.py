"""A user's own images that come without a test part, divided once and for all by what the files hold."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from nas_osr.data.sources.glances import Glance, glance_at

logger = logging.getLogger(__name__)

DIVISION_SEED = 0  # part of what the division is: never change it
# Correlation of thumbnails of near-duplicates: JPEG, halving and 15 % more light stay above .989, and of five classes
# of CIFAR-10, with 1,000 photographs each, none had more than one such pair.
ALIKE = 0.98
_FLAT = 2.0  # standard deviation of a thumbnail, in levels, that shows nothing
_ROWS = 2048  # thumbnails that are compared with all others at once


def divide_images(paths: Sequence[Path], share: float) -> dict[str, list[Path]]:
    """The images of one class as training and test images, each in the order given.

    Equal files and near-duplicates stay together. Each such group goes to the test with probability `share`, by a hash
    of what it holds: names, other images and other classes are without effect, so that adding one moves nothing but its
    own near-duplicates. Only where chance gives the test less than half of `share`, or more than one and a half, the
    groups next in line make up for it. Two groups or more give at least one to each part.
    """
    looks = glance_at(paths)
    tested = _find_tested(tuple(looks), share)
    if tested is None:
        logger.warning("%s: all %d images are nearly the same, and divided as if not", paths[0].parent, len(paths))
        tested = _choose_groups(looks, np.arange(len(looks)), share)
    return {
        "train": [path for index, path in enumerate(paths) if index not in tested],
        "test": [path for index, path in enumerate(paths) if index in tested],
    }


@lru_cache(maxsize=4096)
def _find_tested(looks: tuple[Glance, ...], share: float) -> frozenset[int] | None:
    """Which images are the test's; None where all are near-duplicates. Remembered: training and test ask alike."""
    groups = group_alike(looks)
    return None if len(looks) > 1 and groups.max() == 0 else _choose_groups(looks, groups, share)


def _choose_groups(looks: Sequence[Glance], groups: np.ndarray, share: float) -> frozenset[int]:
    """The images of the groups that go to the test; see `divide_images`."""
    members = {group: np.flatnonzero(groups == group) for group in range(len(set(groups.tolist())))}
    places = {group: _place([looks[index].digest for index in found.tolist()]) for group, found in members.items()}
    least, most = max(1.0, 0.5 * share * len(looks)), max(1.0, 1.5 * share * len(looks))
    tested: list[int] = []
    for group in sorted(places, key=lambda group: places[group]) if len(places) > 1 else []:
        if len(tested) >= least and places[group] >= share:
            break
        if len(tested) + len(members[group]) <= most:
            tested += members[group].tolist()
    if not tested and len(places) > 1:  # every group is large
        tested = members[min(places, key=lambda group: (len(members[group]), places[group]))].tolist()
    return frozenset(tested)


def group_alike(looks: Sequence[Glance]) -> np.ndarray:
    """int [n], from 0: the group of near-duplicates of each image; whatever is linked by others is in one group."""
    count = len(looks)
    if count == 0:
        return np.zeros(0, dtype=np.int64)
    thumbnails = np.stack([look.thumbnail for look in looks]).astype(np.float32)
    thumbnails -= thumbnails.mean(axis=1, keepdims=True)
    spread = thumbnails.std(axis=1, keepdims=True)
    normal = np.where(spread < _FLAT, 0.0, thumbnails / np.maximum(spread, _FLAT)) / np.sqrt(thumbnails.shape[1])
    rows, columns = [], []
    for start in range(0, count, _ROWS):
        found = np.nonzero(normal[start : start + _ROWS] @ normal.T >= ALIKE)
        rows.append(found[0] + start)
        columns.append(found[1])
    first: dict[bytes, int] = {}
    equal = [first.setdefault(look.digest, index) for index, look in enumerate(looks)]
    row, column = np.concatenate([*rows, np.arange(count)]), np.concatenate([*columns, equal])
    links = coo_matrix((np.ones(len(row), dtype=bool), (row, column)), shape=(count, count))
    return connected_components(links, directed=False)[1]


def _place(digests: Sequence[bytes]) -> float:
    """Where in [0, 1) a group stands."""
    digest = hashlib.sha256(f"{DIVISION_SEED}/".encode() + min(digests)).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
