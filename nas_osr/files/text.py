"""Text and JSON from users, read with care."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nas_osr.errors import UserError, show
from nas_osr.files.paths import user_path

MAX_FILE_BYTES = 4 << 20


def read_text(path: str | Path, max_bytes: int = MAX_FILE_BYTES) -> str:
    """The text of a UTF-8 file of at most `max_bytes`. Raises UserError."""
    path = user_path(path)
    try:
        if not (os.path.isfile(path) or os.path.isdir(path)) and os.path.exists(path):
            raise UserError(f"{path}: not a plain file")  # a pipe would be waited for
        with open(path, "rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > max_bytes:
        raise UserError(f"{path}: larger than {max_bytes >> 20} MiB")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file in UTF-8") from None


def parse_json(text: str, where: str) -> Any:
    """`json.loads` that also refuses NaN, infinities, duplicate keys and deep nesting; `where` names the origin.

    Raises:
        UserError: the text is not such JSON.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    except RecursionError:
        raise UserError(f"{where}: nested too deeply") from None
    except ValueError as error:
        raise UserError(f"{where}: not valid JSON: {error}") from None


def parse_object(text: str, where: str) -> dict[str, Any]:
    """The object that a text is, see `parse_json`. Raises UserError when it is none."""
    value = parse_json(text, where)
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected a JSON object")
    return value


def read_object(path: Path) -> dict[str, Any]:
    """An object from a JSON file. Raises UserError when it is missing or broken."""
    return parse_object(read_text(path), str(path))


def as_fields(value: Any, where: str, names: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """The value as an object with exactly these fields, and perhaps the optional ones; UserError otherwise."""
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected an object with {', '.join(names)}, got {show(value)}")
    for name in names:
        if name not in value:
            raise UserError(f"{where}: field {name} is missing")
    for name in value:
        if name not in names + optional:
            raise UserError(f"{where}: unknown field {show(name)}")
    return value


def as_integer(value: Any, where: str) -> int:
    """The value as a whole number; UserError otherwise."""
    if type(value) is not int:
        raise UserError(f"{where}: expected a whole number, got {show(value)}")
    return value


def as_string(value: Any, where: str) -> str:
    """The value as a string; UserError otherwise."""
    if not isinstance(value, str):
        raise UserError(f"{where}: expected a string, got {show(value)}")
    return value


def as_items(value: Any, where: str, convert: Callable[[Any, str], Any]) -> tuple[Any, ...]:
    """The value as a list whose items `convert` accepts; UserError otherwise."""
    if not isinstance(value, list):
        raise UserError(f"{where}: expected a list, got {show(value)}")
    return tuple(convert(item, f"{where}[{index}]") for index, item in enumerate(value))


def check_json_value(value: Any, where: str, depth: int) -> None:
    """Raise UserError unless `value` is plain, finite JSON, nested at most `depth` deep."""
    if value is None or isinstance(value, str | bool):
        return
    if isinstance(value, int):
        if abs(value) >= 1 << 64:
            raise UserError(f"{where}: a whole number of more than 64 bits")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise UserError(f"{where}: {value} is not a finite number")
    elif depth == 0:
        raise UserError(f"{where[:80]}: nested too deeply")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            check_json_value(item, f"{where}[{index}]", depth - 1)
    elif isinstance(value, dict) and all(isinstance(key, str) for key in value):
        for key, item in value.items():
            check_json_value(item, f"{where}.{show(key)[1:-1]}", depth - 1)
    else:
        raise UserError(f"{where}: {show(value)} is not a JSON value")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for key, item in pairs:
        if key in value:
            raise ValueError(f"duplicate key {key[:40]!a}")
        value[key] = item
    return value
