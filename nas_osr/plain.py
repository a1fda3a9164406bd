"""Plain values: what JSON, YAML and the command line can say."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any


def plain(value: Any, where: str) -> Any:
    """`value` as JSON and YAML have it: dataclasses and mappings become dicts with string keys, sequences and arrays
    lists, paths strings, array scalars numbers.

    Raises:
        ValueError: a number is not finite; `where` and the keys to it are named.
        TypeError: something has no plain form.
    """
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int):
        if isinstance(value, kind):
            return value if type(value) is kind else kind(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}")
        return float(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{where}: {key}") for key, item in value.items()}
    if isinstance(value, (list, tuple, range, set, frozenset)):
        items = sorted(value) if isinstance(value, (set, frozenset)) else value
        return [plain(item, f"{where}[{index}]") for index, item in enumerate(items)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value), where)
    if isinstance(value, PurePath):
        return os.fspath(value)
    if hasattr(value, "tolist") and not isinstance(value, type):  # NumPy and torch, scalars included
        return plain(value.tolist(), where)
    raise TypeError(f"{where}: {type(value).__name__} has no plain form")
