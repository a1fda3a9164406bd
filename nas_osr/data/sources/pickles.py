"""Opens the CIFAR pickles without being able to run what is in them.

An unpickler calls whatever callables the file names. Here a name from a short list becomes an inert `_Call`, which only
remembers its arguments, and any other is refused; the array is built from what was remembered.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

# The names in pickles of uint8 arrays by Python 2 or 3, numpy 1 or 2, protocols 0 to 5.
_NAMES = {
    "numpy.ndarray", "numpy.dtype", "_codecs.encode",
    "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct",
    "numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer",
}  # fmt: skip


class _Call:
    """A call that the file asked for and that did not happen."""

    __slots__ = ("arguments", "state")

    def __init__(self, *arguments: Any) -> None:
        self.arguments, self.state = arguments, None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in _NAMES:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which image data has no use for")
        return _Call


def unpickle(content: bytes, *, known: bool = False) -> dict[Any, Any]:
    """The dictionary in a pickle, with text as keys; arrays are for `uint8_matrix` to make.

    Args:
        known: it is an official file, by its checksum, so that it need not be looked through beforehand.

    Raises:
        Exception: of nearly any kind, when it is damaged, no dictionary, or asks for anything but arrays.
    """
    if not known:
        _check_memo(content)
    entries = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    if not isinstance(entries, dict):
        raise ValueError("it does not hold a dictionary")
    return {key.decode() if isinstance(key, bytes) else key: value for key, value in entries.items()}


def uint8_matrix(value: Any) -> np.ndarray | None:
    """The two-dimensional uint8 array that a value of `unpickle` describes; None when it is something else."""
    import numpy as np

    try:
        if value.state is not None:
            _, shape, kind, fortran, data = value.state
        else:
            data, kind, shape, order = value.arguments
            fortran = order in ("F", b"F")
        if isinstance(data, _Call):  # as protocols 0 to 2 of Python 3 write bytes
            data = data.arguments[0].encode("latin1")
        if kind.arguments[0] in ("u1", b"u1") and len(shape) == 2 and min(shape) >= 0:
            return np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran else "C")
    except (AttributeError, IndexError, OverflowError, TypeError, ValueError):  # whatever else a file may put there
        pass
    return None


def _check_memo(content: bytes) -> None:
    """ValueError when a pickle numbers its parts with gaps: the unpickler takes memory for every number below."""
    for count, (operation, argument, _) in enumerate(pickletools.genops(content)):
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > count:
            raise ValueError("its parts are not numbered in order")
