"""Reads the CIFAR pickles without being able to run what is in them.

An unpickler calls whatever callables the file names. Here every name on a short list becomes an inert `_Node` that only
remembers its arguments, every other name is refused, and the arrays are built from the nodes afterwards.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

from nas_osr.errors import UserError

MAX_BYTES = 1 << 30  # the largest official one has 155 MB


class _Node:
    """A call that the file asked for and that did not happen: its name, arguments and state."""

    __slots__ = ("arguments", "state")
    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any) -> _Node:
        node = object.__new__(cls)
        node.arguments = arguments
        node.state = None
        return node

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Array(_Node):
    __slots__ = ()


class _Reconstruct(_Node):
    __slots__ = ()


class _FromBuffer(_Node):
    __slots__ = ()


class _Dtype(_Node):
    __slots__ = ()


class _Encode(_Node):
    __slots__ = ()


# The names in pickles of uint8 arrays by Python 2 or 3, numpy 1 or 2, protocols 0 to 5.
_ALLOWED: dict[tuple[str, str], type[_Node]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _Reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _Reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _FromBuffer,
    ("numpy._core.numeric", "_frombuffer"): _FromBuffer,
    ("_codecs", "encode"): _Encode,
}


# What follows each opcode: so many bytes, or one of pickletools' marks for lines and for counted bytes.
_ARGUMENTS = {ord(opcode.code): opcode.arg.n if opcode.arg else 0 for opcode in pickletools.opcodes}
_COUNTED = {  # bytes of the count
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_TWO_LINES = b"ci"  # GLOBAL and INST: module and name
_PUT, _BINPUT, _LONG_BINPUT, _STOP = b"pqr."


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which image data has no use for")
        return _ALLOWED[module, name]


def read_pickled_batch(path: Path) -> tuple[np.ndarray, dict[str, list[int]]]:
    """The `data` array and all lists of integers (labels) in a pickled dictionary.

    Returns:
        data: uint8 [n, values], and the lists by key.

    Raises:
        UserError: the file is missing, corrupt, no such dictionary, or asks for anything but plain arrays.
    """
    try:
        pickled = _read(path)
        _check_memo(pickled)
        content = _Unpickler(io.BytesIO(pickled), encoding="bytes").load()
        if not isinstance(content, dict):
            raise ValueError("it does not hold a dictionary")
        entries = {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}
        data = _to_array(entries.get("data"))
        lists = {key: value for key, value in entries.items() if isinstance(value, list) and _are_ints(value)}
    # A damaged pickle can raise nearly anything; nothing in it was run.
    except Exception as error:
        raise UserError(f"{path} cannot be read: {_one_line(error)}; fetch the official file again") from error
    return data, lists


def _read(path: Path) -> bytes:
    """The whole file; ValueError when it is far too large."""
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES >> 20} MiB")
    return content


def _check_memo(pickled: bytes) -> None:
    """ValueError when a pickle numbers its parts with gaps: the unpickler takes memory for every number below.

    `pickletools.genops` would walk through it as well, but it also makes every argument: a second for CIFAR-10.
    """
    position = count = 0
    while position < len(pickled):
        opcode, start = pickled[position], position + 1
        if opcode == _STOP:
            return
        size = _ARGUMENTS.get(opcode)
        if size is None:
            raise ValueError(f"it has no operation {opcode}")
        if size >= 0:
            position = start + size
        elif size == pickletools.UP_TO_NEWLINE:
            position = pickled.index(b"\n", start) + 1
            if opcode in _TWO_LINES:
                position = pickled.index(b"\n", position) + 1
        else:
            begin = start + _COUNTED[size]
            position = begin + int.from_bytes(pickled[start:begin], "little")
        if opcode in (_BINPUT, _LONG_BINPUT):
            number = int.from_bytes(pickled[start:position], "little")
        else:
            number = int(pickled[start:position]) if opcode == _PUT else 0
        if number > count:
            raise ValueError("its parts are not numbered in order")
        count += 1
    raise ValueError("it ends too early")


def _to_array(node: Any) -> np.ndarray:
    """The two-dimensional uint8 array that a node describes."""
    if isinstance(node, _Reconstruct) and isinstance(node.state, tuple) and len(node.state) == 5:
        _, shape, dtype, fortran, data = node.state
        order = "F" if fortran else "C"
    elif isinstance(node, _FromBuffer) and len(node.arguments) == 4:
        data, dtype, shape, order = node.arguments
    else:
        raise ValueError("its entry 'data' is not an array")
    if not isinstance(dtype, _Dtype) or dtype.arguments[0] not in ("u1", b"u1"):
        raise ValueError("its entry 'data' does not hold 8-bit values")
    if not isinstance(shape, tuple) or len(shape) != 2 or not _are_ints(shape):
        raise ValueError("its entry 'data' is not two-dimensional")
    if isinstance(data, _Encode) and data.arguments[1:] in (("latin1",), (b"latin1",)):
        data = data.arguments[0].encode("latin1")
    if not isinstance(data, (bytes, bytearray)) or len(data) != math.prod(shape):
        raise ValueError("its entry 'data' is incomplete")
    return np.frombuffer(data, dtype=np.uint8).reshape(shape, order="F" if order in ("F", b"F") else "C")


def _are_ints(values: Any) -> bool:
    return all(type(value) is int for value in values)


def _one_line(error: Exception) -> str:
    return " ".join(f"{error}".split()) or type(error).__name__
