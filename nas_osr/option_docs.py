"""The options of a request or a function: names, types, defaults, and what is written of them. Free of torch.

A request is a dataclass. What an option means stands as a string under its field, or under `Args:` in the docstring, as
that of a function's parameter does. A request inherits groups of options; the first line of a group's docstring is its
title.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, get_type_hints

from docstring_parser import parse_from_object


@dataclass(frozen=True, eq=False)  # hashable, whatever the table
class Choices:
    """What a text may be, as metadata of `Annotated`, for --help; what takes the text checks it.

    Attributes:
        names: the names, or a table of what they stand for.
        plugins: whether the dotted path of a user's own class will do as well.
    """

    names: Collection[str]
    plugins: bool = False

    def __str__(self) -> str:
        return ", ".join(self.names) + (", or package.module.Class" if self.plugins else "")


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        name: of the field or parameter.
        type: its hint, with what `Annotated` adds.
        default: MISSING when a value is required.
        help: what it means, in one line.
        group: title of the group that it is inherited from; "" for one of the request itself.
    """

    name: str
    type: Any
    default: Any
    help: str
    group: str


def list_options(kind: Callable[..., Any]) -> list[Option]:
    """The fields of a dataclass, or the parameters of a function."""
    hints = get_type_hints(kind, include_extras=True)
    lineage = kind.__mro__ if isinstance(kind, type) else (kind,)
    texts: dict[str, str] = {}
    for part in reversed(lineage):
        if part is not object:
            texts |= {item.arg_name: one_line(item.description) for item in parse_from_object(part).params}
    groups = {name: part for part in reversed(lineage[1:]) if own_fields(part) for name in all_fields(part)}
    titles = {name: summary(part).partition("\n")[0].rstrip(".") for name, part in groups.items()}
    return [
        Option(name, hints[name], default, texts.get(name, ""), titles.get(name, ""))
        for name, default in defaults(kind).items()
    ]


def defaults(kind: Callable[..., Any]) -> dict[str, Any]:
    """The default of every option, MISSING where a value is required."""
    found = {
        name: MISSING if parameter.default is parameter.empty else parameter.default
        for name, parameter in inspect.signature(kind).parameters.items()
    }
    made = fields(kind) if is_dataclass(kind) else ()
    return found | {item.name: item.default_factory() for item in made if item.default_factory is not MISSING}


def summary(kind: Callable[..., Any]) -> str:
    """What the docstring says before its arguments: one line, then the rest if there is more."""
    parsed = parse_from_object(kind)
    return "\n".join(part for part in (parsed.short_description, parsed.long_description) if part)


def own_fields(kind: type) -> list[str]:
    """The fields that a dataclass itself adds or changes."""
    return list(vars(kind).get("__annotations__", {})) if is_dataclass(kind) else []


def all_fields(kind: Any) -> list[str]:
    """The fields of a dataclass, inherited ones too."""
    return [item.name for item in fields(kind)]


def one_line(text: str | None) -> str:
    """A description without its line breaks."""
    return " ".join((text or "").split())
