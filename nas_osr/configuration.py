"""Requests from plain values, checked and converted alike whether they come from the command line, YAML or Python;
and the ranges that requests share. Free of torch."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from nas_osr.errors import UserError, show
from nas_osr.option_docs import list_defaults, option_types
from nas_osr.plain import plain

T = TypeVar("T")
MAX_NUMBERS = 1_000_000  # of a range: it is written out
WORDS = {
    int: "a whole number", float: "a finite number", str: "text", Path: "a path", bool: "true or false",
    NoneType: "null", Any: "a plain value", list: "a list [...]", dict: "a mapping {name: value, ...}",
}  # fmt: skip


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


def read_names(names: list[Any]) -> list[Any]:
    """Names of classes, nested or not, as text; a whole number counts as its text. ValueError where one is neither."""
    found: list[Any] = []
    for name in names:
        if isinstance(name, list):
            found.append(read_names(name))
        elif isinstance(name, bool) or not isinstance(name, (str, int)):
            raise ValueError(f"inside: {show(name)} is no name: if a class is called so, put it in quotes")
        else:
            found.append(str(name))
    return found


ClassNames = Annotated[list[Any], read_names]
"""Names of classes, in lists where several share a label, for `read_names`."""

Numbers = Annotated[str, parse_range]
"""Text for `parse_range`; a whole number or a list of them counts as its text."""


def make_request(kind: Callable[..., T], values: Mapping[str, Any], where: str) -> T:
    """The request that values make, checked and converted by `check_options`.

    Args:
        kind: a dataclass.
        values: of its options by name; those left out have their default.
        where: a command or a file, for messages.

    Raises:
        UserError: an option that there is not, a value of the wrong type, or one missing.
    """
    return kind(**check_complete(kind, check_options(kind, values, where), where))


def check_complete(kind: Callable[..., Any], values: dict[str, Any], where: str) -> dict[str, Any]:
    """The values; UserError unless every option of a dataclass or a function that needs a value has one."""
    for name, default in list_defaults(kind).items():
        if default is MISSING and values.get(name) is None:
            raise UserError(f"{where}: {name} is missing")
    return values


def check_options(kind: Callable[..., Any], values: Mapping[str, Any], where: str, dashes: str = "") -> dict[str, Any]:
    """The values as the hints of a dataclass or a function have them.

    NumPy scalars and arrays, paths, ranges, tuples and subclasses of dict count as their plain values, and whole
    numbers as floats.

    Args:
        kind: the dataclass or function.
        values: of some of its options.
        where: a command or a file, for messages.
        dashes: what stands before the name of an option there.

    Raises:
        UserError: an option that there is not, or a value of the wrong type.
    """
    hints, values = option_types(kind), rename_former(kind, values)
    for name in values:
        if name not in hints:
            raise UserError(f"{where}: there is no option {dashes}{name}{suggest(name, hints, dashes)}")
    return {name: check_value(value, hints[name], f"{where}: {dashes}{name}") for name, value in values.items()}


def rename_former(kind: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of options, those of an earlier version where they are today.

    What was an option and has become an entry of another is named in `kind.FORMER`, with that other option.
    """
    former: Mapping[str, str] = getattr(kind, "FORMER", {})
    found = {name: value for name, value in values.items() if name not in former}
    for name, value in values.items():
        if name in former and value is not None:
            found[former[name]] = {name: value, **found.get(former[name], {})}
    return found


def check_value(value: Any, hint: Any, where: str) -> Any:
    """The value as a hint has it. Raises UserError, which says what is expected and what was given."""
    try:
        return convert(plain(value, "inside"), hint)
    except (TypeError, ValueError, OverflowError) as error:
        inside = f" ({error})" if str(error).startswith("inside:") or str(error).startswith("inside[") else ""
        raise UserError(f"{where} must be {describe_type(hint)}, got {show(value)}{inside}") from None


def convert(value: Any, hint: Any) -> Any:
    """A plain value as a hint has it: Any, a plain type, Path, a list, a dict, Literal, `Numbers`, or a union of these.

    Raises:
        TypeError, OverflowError: it cannot be.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin is Annotated:
        if parse_range in parts and isinstance(value, (int, list)):
            value = ",".join(map(str, value if isinstance(value, list) else [value]))
        if read_names in parts and isinstance(value, list):
            value = read_names(value)
        return convert(value, parts[0])
    if origin in (Union, UnionType):
        for part in parts:
            try:
                return convert(value, part)
            except TypeError:
                continue
    elif origin is Literal and value in parts:
        return value
    elif origin is list and isinstance(value, list):
        return [convert(item, parts[0]) for item in value]
    elif origin is dict and isinstance(value, dict):
        return {key: convert(item, parts[1]) for key, item in value.items()}
    elif type(value) is (NoneType if hint is None else hint):
        return value
    elif hint is float and type(value) is int:
        return float(value)
    elif hint is Path and isinstance(value, str):
        return Path(value)
    raise TypeError(f"not {describe_type(hint)}")


def describe_type(hint: Any) -> str:
    """A hint for people, e.g. "a whole number or null"."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        if read_names in parts:
            return "a list of class names [cat, dog, ...]"
        return "whole numbers such as 0, 0-4 or 0,2,5-7" if parse_range in parts else describe_type(parts[0])
    if origin in (Union, UnionType):
        return " or ".join(map(describe_type, parts))
    if origin is Literal:
        return f"one of {', '.join(parts)}"
    if origin is list and parts[0] is not Any:
        return f"a list [{describe_type(parts[0])}, ...]"
    return WORDS[NoneType if hint is None else origin or hint]


def suggest(name: str, names: Collection[str], dashes: str = "", instead: str = "", before: str = "; ") -> str:
    """ "; did you mean NAME?" when there is a similar name; else "; INSTEAD NAME, NAME, ..." if that is given."""
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"{before}did you mean {dashes}{close[0]}?"
    return f"{before}{instead} {', '.join(names)}" if instead else ""


def check_positive(config: Any, *names: str, where: str = "") -> None:
    """UserError, beginning with `where`, unless each of these fields is greater than zero."""
    for name in names:
        if not getattr(config, name) > 0:
            raise UserError(f"{where}{name} must be greater than 0, got {getattr(config, name)}")


def check_not_negative(config: Any, *names: str, where: str = "") -> None:
    """UserError, beginning with `where`, unless each of these fields is a number from zero."""
    for name in names:
        if not getattr(config, name) >= 0:
            raise UserError(f"{where}{name} must not be negative, got {getattr(config, name)}")


def check_choice(config: Any, name: str, choices: tuple[str, ...], where: str = "") -> None:
    """UserError, beginning with `where`, unless the field is one of the choices."""
    if getattr(config, name) not in choices:
        raise UserError(f"{where}{name} must be one of {', '.join(choices)}, got {getattr(config, name)!r}")


def check_switches(config: Any) -> None:
    """UserError when checkpointing and compile are both asked for: torch cannot compile the second pass of a cell."""
    if config.checkpointing and config.compile:
        raise UserError("checkpointing and compile exclude each other: leave one of them out")
