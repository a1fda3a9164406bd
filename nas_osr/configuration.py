"""Checks that requests share: ranges of numbers, choices, types. Free of torch."""

from __future__ import annotations

import re
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from nas_osr.errors import UserError, show

MAX_NUMBERS = 1_000_000  # of a range: it is written out


def check_positive(config: Any, *names: str) -> None:
    """UserError unless each of these fields is greater than zero."""
    for name in names:
        if not getattr(config, name) > 0:
            raise UserError(f"{name} must be greater than 0, got {getattr(config, name)}")


def check_not_negative(config: Any, *names: str) -> None:
    """UserError unless each of these fields is a number from zero."""
    for name in names:
        if not getattr(config, name) >= 0:
            raise UserError(f"{name} must not be negative, got {getattr(config, name)}")


def check_choice(config: Any, name: str, choices: tuple[str, ...]) -> None:
    """UserError unless the field is one of the choices."""
    if getattr(config, name) not in choices:
        raise UserError(f"{name} must be one of {', '.join(choices)}, got {getattr(config, name)!r}")


def check_switches(config: Any) -> None:
    """UserError when checkpointing and compile are both asked for: torch cannot compile the second pass of a cell."""
    if config.checkpointing and config.compile:
        raise UserError("checkpointing and compile exclude each other: leave one of them out")


def parse_range(name: str, text: Any) -> list[int]:
    """Whole numbers from text such as `0`, `0-4` or `0,2,5-7`; UserError when it is not of that form."""
    numbers: list[int] = []
    for part in str(text).split(","):
        match = re.fullmatch(r"\s*(\d{1,6})(?:-(\d{1,6}))?\s*", part)
        if match is None or (match[2] is not None and int(match[2]) < int(match[1])):
            raise UserError(f"{name} must look like 0, 0-4 or 0,2,5-7, got {show(text)}")
        numbers += range(int(match[1]), int(match[2] or match[1]) + 1)
        if len(numbers) > MAX_NUMBERS:
            raise UserError(f"{name} names more than {MAX_NUMBERS} numbers")
    if len(set(numbers)) < len(numbers):
        raise UserError(f"{name} names a number twice: {show(text)}")
    return numbers


def check_types(config: Any, where: str) -> None:
    """UserError, naming the first, unless every field of a dataclass has the type that it is annotated with."""
    hints = get_type_hints(type(config))
    for item in fields(config):
        if not has_type(getattr(config, item.name), hints[item.name]):
            raise UserError(f"{where}: {item.name} must not be {show(getattr(config, item.name))}")


def has_type(value: Any, hint: Any) -> bool:
    """Whether a plain value is of a type: Any, a plain type, a list, a dict with text for keys, or a union of these."""
    arguments = get_args(hint)
    if hint is Any:
        return True
    if get_origin(hint) in (Union, UnionType):
        return any(has_type(value, part) for part in arguments)
    if get_origin(hint) is list:
        return isinstance(value, list) and all(has_type(item, arguments[0]) for item in value)
    if get_origin(hint) is dict:
        return isinstance(value, dict) and all(isinstance(key, str) for key in value)
    return type(value) is (NoneType if hint is None else hint)
