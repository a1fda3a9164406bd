"""Requests from plain values, checked and converted alike whether they come from the command line, YAML or Python;
and the ranges that requests share. Free of torch."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from nas_osr.errors import UserError, show, suggest
from nas_osr.files.paths import absolute_path, user_path
from nas_osr.option_docs import Range, list_defaults, option_types
from nas_osr.plain import plain

T = TypeVar("T")
MAX_NUMBERS = 1_000_000  # of a range: it is written out
WORDS = {
    int: "a whole number", float: "a finite number", str: "text", Path: "a path", bool: "true or false",
    NoneType: "null", Any: "a plain value", list: "a list [...]", tuple: "a list [...]",
    dict: "a mapping {name: value, ...}",
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

UserPath = Annotated[str, user_path]
"""A path of the user's, `~` expanded."""

DataPath = Annotated[str, absolute_path]
"""The same from the root: config.yaml keeps it, and a run is read from any working folder."""


class Checked:
    """A base of dataclasses whose fields are checked and converted by their hints, whoever makes an instance."""

    def __post_init__(self) -> None:
        """UserError: a value is of the wrong type, or out of range."""
        for name, value in check_options(type(self), vars(self), type(self).__name__).items():
            object.__setattr__(self, name, value)  # configs are frozen


def make_request(kind: Callable[..., T], values: Mapping[str, Any], where: str) -> T:
    """The request that values make, checked and converted by `check_options`.

    Args:
        kind: a dataclass.
        values: of its options by name; those left out have their default.
        where: a command or a file, for messages.

    Raises:
        UserError: an option that there is not, a value of the wrong type or out of range, or one missing.
    """
    return kind(**check_complete(kind, check_options(kind, values, where), where))


def make_config(owner: str, kind: type[T], settings: Mapping[str, Any]) -> T:
    """An instance of a dataclass of settings, as `make_request` makes requests; `owner` has them, for messages."""
    check_declared(owner, kind)
    known: Mapping[str, Any] = option_types(kind)  # type: ignore[arg-type]
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise UserError(f"{owner} has no setting {unknown[0]!r}: it has {', '.join(known)}{suggest(unknown[0], known)}")
    return make_request(kind, settings, owner)


def check_declared(owner: str, kind: type) -> None:
    """UserError where a dataclass of a user's own would ignore what it says: its class, or one that it derives from, is
    not decorated, or gives a field another default without a type."""
    for part in kind.__mro__ if is_dataclass(kind) else ():
        if not is_dataclass(part):
            continue
        annotated = [name for name, hint in inspect.get_annotations(part).items() if "ClassVar" not in str(hint)]
        options = {item.name for item in fields(part)}
        said = [name for name in vars(part) if name in options and name not in annotated]
        if "__dataclass_fields__" not in vars(part) and (ignored := [*annotated, *said]):
            raise UserError(
                f"{owner}: {part.__name__} ignores {ignored[0]}: put @dataclass(frozen=True) above the class"
            )
        if said:
            raise UserError(f"{owner}: {part.__name__} ignores {said[0]}: give it a type there, as its base does")


def make_without_idle(owner: str, make: Callable[[Mapping[str, Any]], T], settings: Mapping[str, Any]) -> T:
    """The config that `make` makes of a user's settings.

    Its `idle` names the settings that nothing reads as the others are, each with why; a plug-in's may have none.

    Raises:
        UserError: one of them is set to what it would not be by itself; or as `make` does.
    """
    made = make(settings)
    idle: Mapping[str, str] = getattr(made, "idle", {})
    usual = make({name: value for name, value in settings.items() if name not in idle})
    for name in settings:
        if name in idle and getattr(made, name) != getattr(usual, name):
            raise UserError(f"{owner}: {name} does nothing {idle[name]}: leave it out")
    return made


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
    except OutOfRange as error:
        raise UserError(f"{where} must {error.args[0]}, got {show(error.args[1])}") from None
    except (TypeError, ValueError, OverflowError) as error:
        inside = f" ({error})" if str(error).startswith("inside:") or str(error).startswith("inside[") else ""
        raise UserError(f"{where} must be {describe_type(hint)}, got {show(value)}{inside}") from None


class OutOfRange(ValueError):
    """The arguments: the `Range`, and a number that is not in it."""


def convert(value: Any, hint: Any) -> Any:
    """A plain value as a hint has it: Any, a plain type, Path, a list, a dict, a tuple, Literal, or a union of these,
    `Annotated` with a `Range` (of each of several numbers), `Numbers` or `UserPath`. Another hint takes any value.

    Raises:
        TypeError, OverflowError: it cannot be.
        OutOfRange: a number is none of those that the option may be.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        if parse_range in parts and isinstance(value, (int, list)):
            value = ",".join(map(str, value if isinstance(value, list) else [value]))
        if read_names in parts and isinstance(value, list):
            value = read_names(value)
        value = convert(value, parts[0])
        for part in parts[1:]:
            if isinstance(part, Range):
                check_numbers(value, part)
            elif part in (user_path, absolute_path) and value is not None:
                value = os.fspath(part(value))
        return value
    if origin in (Union, UnionType):
        for part in parts:
            try:
                return convert(value, part)
            except TypeError:
                continue
    elif origin is Literal and value in parts:
        return value
    elif origin in (list, tuple) and isinstance(value, list):
        kinds = [*parts] if origin is tuple and parts[1:] != (...,) else [parts[0]] * len(value)
        if len(kinds) == len(value):
            return origin(map(convert, value, kinds))
    elif origin is dict and isinstance(value, dict):
        return {key: convert(item, parts[1]) for key, item in value.items()}
    elif type(value) is (NoneType if hint is None else hint):
        return value
    elif hint is float and type(value) is int:
        return float(value)
    elif hint is Path and isinstance(value, str):
        return user_path(value)
    elif hint is Any or (origin or hint) not in {*WORDS, None, Literal}:  # of a plug-in, which checks it
        return value
    raise TypeError(f"not {describe_type(hint)}")


def check_numbers(value: Any, allowed: Range) -> None:
    """OutOfRange unless a number, or each number of several, is in a range; None is no number."""
    for number in value if isinstance(value, (list, tuple)) else [value]:
        if number is not None and number not in allowed:
            raise OutOfRange(allowed, number)


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
    if origin in (list, tuple) and parts[0] is not Any:
        return f"a list [{describe_type(parts[0])}, ...]"
    return WORDS[NoneType if hint is None else origin or hint]


def check_choice(config: Any, name: str, choices: tuple[str, ...], where: str = "") -> None:
    """UserError, beginning with `where`, unless the field is one of the choices."""
    if getattr(config, name) not in choices:
        hint = suggest(str(getattr(config, name)), choices)
        raise UserError(f"{where}{name} must be one of {', '.join(choices)}, got {getattr(config, name)!r}{hint}")


def check_switches(config: Any) -> None:
    """UserError when checkpointing and compile are both asked for: torch cannot compile the second pass of a cell."""
    if config.checkpointing and config.compile:
        raise UserError("checkpointing and compile exclude each other: leave one of them out")
