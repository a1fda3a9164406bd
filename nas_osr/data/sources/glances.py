"""A short look at image files: how large they are, whether they are grey, and what they roughly show."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from nas_osr.data.sources.image_files import FORMATS, MAX_PIXELS, to_eight_bits

SIDE = 16  # of a thumbnail


@dataclass(frozen=True, eq=False)
class Glance:
    """What a short look at a file tells; of one that holds no image that can be read only the digest.

    Attributes:
        digest: sha256 of the file.
        size: its larger side in pixels, 0 without an image.
        grey: whether no pixel has a colour.
        thumbnail: float32 [SIDE * SIDE], luma.
    """

    digest: bytes
    size: int
    grey: bool
    thumbnail: np.ndarray


def glance_at(paths: Sequence[Path]) -> list[Glance]:
    """A look at each of these files, on all cores; files that have not changed since the last look are remembered."""
    with warnings.catch_warnings(), ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        warnings.simplefilter("ignore")  # reading says what is wrong with a file
        return list(pool.map(_glance_at, paths))


def tell_size_and_colour(paths: Iterable[Path], small: int) -> tuple[bool, bool]:
    """Whether an image is larger than `small` pixels, and whether all are grey; looks at no more than it needs."""
    larger, grey = False, True
    files = list(paths)
    for start in range(0, len(files), 64):
        seen = [look for look in glance_at(files[start : start + 64]) if look.size]
        larger = larger or any(look.size > small for look in seen)
        grey = grey and all(look.grey for look in seen)
        if larger and not grey:
            break
    return larger, grey


def _glance_at(path: Path) -> Glance:
    try:
        found = os.stat(path)
    except OSError:
        return _nothing(b"")
    regular = stat.S_ISREG(found.st_mode)  # a pipe would be waited for
    return _look(path, found.st_mtime_ns, found.st_size) if regular else _nothing(b"")


@lru_cache(maxsize=1 << 17)
def _look(path: Path, modified: int, size: int) -> Glance:
    """The look itself; `modified` and `size` say whether the file is the same as before."""
    try:
        content = path.read_bytes()
    except OSError:
        return _nothing(b"")
    digest = hashlib.sha256(content).digest()
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            largest = max(opened.size)
            if opened.size[0] * opened.size[1] > MAX_PIXELS:
                return _nothing(digest)
            opened.draft(None, (4 * SIDE, 4 * SIDE))
            image = to_eight_bits(opened, opened.format, path)
            pixels = np.asarray(image.convert("RGB"))
            grey = bool((pixels == pixels[:, :, :1]).all())
            luma = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    except Exception:  # Pillow raises many kinds on damaged files, and reading will name this one
        return _nothing(digest)
    return Glance(digest, largest, grey, np.asarray(luma, dtype=np.float32).ravel())


def _nothing(digest: bytes) -> Glance:
    return Glance(digest, 0, True, np.zeros(SIDE * SIDE, dtype=np.float32))
