"""Reads numeric arrays from MATLAB 5 files with nothing but checked slices: SciPy's reader can crash on damaged ones.

Format: *MAT-File Level 5 File Format* (The MathWorks). A file is a header of 128 bytes and elements, each a type, a
size and so many bytes; an array is an element of elements: flags, dimensions, name, values.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

MAX_BYTES = 1 << 30  # of the file, and of what is packed in it; the largest official one has 226 MB unpacked
_HEADER = 128
_ARRAY, _PACKED = 14, 15  # types of elements
# what numbers are stored as, and what they stand for, by the format's own numbers
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_COMPLEX = 0x800


def read_matlab(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """The real numeric arrays of these names; others in the file are passed over.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a MATLAB 5 file, is damaged or too large, or holds something else under one of the names.
    """
    with path.open("rb") as file:
        content = memoryview(file.read(MAX_BYTES + 1))
    if len(content) > MAX_BYTES:
        raise ValueError("too large")
    order = {b"IM": "<", b"MI": ">"}.get(bytes(content[126:_HEADER]))
    if order is None:
        raise ValueError("not a MATLAB 5 file")
    found: dict[str, np.ndarray] = {}
    left = MAX_BYTES
    for kind, data in _elements(content[_HEADER:], order):
        if kind == _PACKED:
            unpacked = _unpack(data, left)
            left -= len(unpacked)
            kind, data = next(_elements(unpacked, order), (0, unpacked))
        if kind == _ARRAY:
            parts = list(islice(_elements(data, order), 4))
            if len(parts) < 3:
                raise ValueError("an array without flags, dimensions or name")
            name = bytes(parts[2][1]).decode("latin-1")
            if name in names:
                found[name] = _array(parts, order)
    return found


def _elements(content: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Type and bytes of each element. ValueError when one is cut short."""
    at = 0
    while at < len(content):
        if at + 8 > len(content):
            raise ValueError("cut short")
        kind, size = struct.unpack_from(f"{order}2I", content, at)
        start = at + 8
        if kind >> 16:  # a small one: type and size share four bytes, and up to four more hold the data
            kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
            following = at + 8
        else:
            following = start + (size if kind == _PACKED else -(-size // 8) * 8)
        if start + size > min(following, len(content)):
            raise ValueError("cut short")
        yield kind, content[start : start + size]
        at = following


def _unpack(packed: memoryview, limit: int) -> memoryview:
    """What zlib has packed; ValueError when it is more than `limit` bytes, or damaged."""
    unpacker = zlib.decompressobj()
    try:
        unpacked = unpacker.decompress(packed, limit + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(unpacked) > limit:
        raise ValueError("too large")
    if not unpacker.eof:
        raise ValueError("cut short")
    return memoryview(unpacked)


def _array(parts: list[tuple[int, memoryview]], order: str) -> np.ndarray:
    """The values of an array element's parts: flags, dimensions, name, values."""
    if len(parts) < 4:
        raise ValueError("an array without values")
    (flags_kind, flags), (sizes_kind, sizes), _, (kind, values) = parts
    if _STORED.get(flags_kind) != "u4" or len(flags) != 8 or _STORED.get(sizes_kind) != "i4" or len(sizes) % 4:
        raise ValueError("an array with broken flags or dimensions")
    meaning = struct.unpack_from(f"{order}I", flags)[0]
    if meaning & _COMPLEX or meaning & 0xFF not in _CLASSES or kind not in _STORED:
        raise ValueError("not an array of real numbers")
    shape = struct.unpack(f"{order}{len(sizes) // 4}i", sizes)
    stored, stands_for = np.dtype(order + _STORED[kind]), np.dtype(_CLASSES[meaning & 0xFF])
    if not np.can_cast(stored, stands_for):
        raise ValueError("numbers that are stored as a larger type than they are of")
    if len(shape) < 2 or min(shape) < 0 or math.prod(shape) * stored.itemsize != len(values):
        raise ValueError("dimensions that do not fit the values")
    return np.frombuffer(values, stored).astype(stands_for, copy=False).reshape(shape, order="F")
