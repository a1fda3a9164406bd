"""A user's own images that come without a test part, divided once and for all by what the files hold."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
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
    groups = group_alike(looks)
    if len(paths) > 1 and groups.max() == 0:
        logger.warning("%s: all %d images are nearly the same, and divided as if not", paths[0].parent, len(paths))
        groups = np.arange(len(paths))
    members = {group: np.flatnonzero(groups == group) for group in range(len(set(groups.tolist())))}
    places = {group: _place([looks[index].digest for index in found]) for group, found in members.items()}
    least, most = max(1.0, 0.5 * share * len(paths)), max(1.0, 1.5 * share * len(paths))
    tested: set[int] = set()
    count = 0
    for group in sorted(places, key=lambda group: places[group]) if len(places) > 1 else []:
        if count >= least and places[group] >= share:
            break
        if count + len(members[group]) <= most:
            tested.add(group)
            count += len(members[group])
    if not tested and len(places) > 1:  # every group is large
        tested = {min(places, key=lambda group: (len(members[group]), places[group]))}
    parts: dict[str, list[Path]] = {"train": [], "test": []}
    for path, group in zip(paths, groups, strict=True):
        parts["test" if int(group) in tested else "train"].append(path)
    return parts


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
