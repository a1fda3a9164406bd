"""The options of a request or a function: names, types, defaults, and what is written of them. Free of torch.

A request is a dataclass. What an option means stands as a string under its field; under `Args:` for a parameter of a
function. A request inherits groups of options; the first line of a group's docstring is its title.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from docstring_parser import parse_from_object


@dataclass(frozen=True, eq=False)  # hashable, whatever the table
class Choices:
    """What a text may be, as metadata of `Annotated`, for --help; what takes the text checks it.

    Attributes:
        names: the names, or a table of what they stand for.
        plugins: whether the dotted path of a user's own class will do as well.
        besides: what else will do, such as library.NAME; "" where nothing does.
    """

    names: Collection[str]
    plugins: bool = False
    besides: str = ""

    def __str__(self) -> str:
        return ", ".join([*self.names, *filter(None, [self.besides]), *["or package.module.Class"] * self.plugins])


@dataclass(frozen=True)
class Range:
    """Which numbers an option may be, as metadata of `Annotated`; `nas_osr.configuration` checks it.

    Attributes:
        low, high: the smallest and the largest.
        above, below: whether `low` or `high` itself is left out.
        or_zero: whether 0 will do as well.
    """

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False
    or_zero: bool = False

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, (int, float)) or (self.or_zero and value == 0):
            return isinstance(value, (int, float))
        low = value > self.low if self.above else value >= self.low
        return low and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        """What must be, as in "must ..."."""
        if self.high < math.inf:
            return f"lie in {'(' if self.above else '['}{self.low}, {self.high}{')' if self.below else ']'}"
        if self.low == 0 and not self.above:
            return "not be negative"
        return f"be {'0 or ' if self.or_zero else ''}{'greater than' if self.above else 'at least'} {self.low}"


POSITIVE, NOT_NEGATIVE, SHARE = Range(0, above=True), Range(0), Range(0, 1)
SEEDS, THREADS = Range(0, 2**63 - 1), Range(0, 4096)


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

    @property
    def choices(self) -> str:
        """The names that it may be, for people; "" where there are none."""
        return find_choices(self.type)

    @property
    def meaning(self) -> str:
        """What is written of it, what it may be, and its default."""
        return " ".join(filter(None, (self.help, self.about)))

    @property
    def about(self) -> str:
        """ "[what it may be; its default]", or "" where there is nothing to say."""
        about = []
        if self.choices:
            about.append(f"{'of' if list in named_types(self.type) else 'one of'} {self.choices}")
        if self.default is MISSING:
            about.append("required")
        elif self.default not in (None, "", {}, []) and self.type is not bool:
            shown = ",".join(map(str, self.default)) if isinstance(self.default, list) else self.default
            about.append(f"default: {shown}")
        return f"[{'; '.join(about)}]" if about else ""


def list_options(kind: Callable[..., Any]) -> list[Option]:
    """The fields of a dataclass, or the parameters of a function."""
    hints = option_types(kind)
    lineage = kind.__mro__[:-1] if isinstance(kind, type) else (kind,)
    texts: dict[str, str] = {}
    for part in reversed(lineage):
        texts |= read_texts(part)
    # the group nearest to the request has those that it inherits, too; a class without options of its own is no group
    groups = [part for part in reversed(lineage[1:]) if is_dataclass(part) and vars(part).get("__annotations__")]
    titles = {item.name: summary(part).partition("\n")[0].rstrip(".") for part in groups for item in fields(part)}
    return [
        Option(name, hints[name], default, texts.get(name, ""), titles.get(name, ""))
        for name, default in list_defaults(kind).items()
    ]


@cache
def option_types(kind: Callable[..., Any]) -> dict[str, Any]:
    """The hint of every option, in the order of the fields or parameters."""
    hints = get_type_hints(kind, include_extras=True)
    return {name: hints[name] for name in inspect.signature(kind).parameters}


@cache
def read_texts(kind: Callable[..., Any]) -> dict[str, str]:
    """What a class or a function itself says of options."""
    return {item.arg_name: " ".join((item.description or "").split()) for item in parse_from_object(kind).params}


def find_choices(hint: Any) -> str:
    """The names that a hint, or what `Annotated` adds to it, lists."""
    if get_origin(hint) is Literal:
        return ", ".join(get_args(hint))
    parts = get_args(hint)
    return "".join(str(part) if isinstance(part, Choices) else find_choices(part) for part in parts)


def list_defaults(kind: Callable[..., Any]) -> dict[str, Any]:
    """The default of every option, MISSING where a value is required."""
    found = {
        name: MISSING if parameter.default is parameter.empty else parameter.default
        for name, parameter in inspect.signature(kind).parameters.items()
    }
    made = fields(kind) if is_dataclass(kind) else ()
    return found | {item.name: item.default_factory() for item in made if item.default_factory is not MISSING}


def summary(kind: Callable[..., Any]) -> str:
    """What the docstring says before its arguments: paragraphs with an empty line between them."""
    parsed = parse_from_object(kind)
    return "\n\n".join(part for part in (parsed.short_description, parsed.long_description) if part)


def named_types(hint: Any) -> Iterator[Any]:
    """The types that a hint lets a value have: unions taken apart, lists and dicts without what is in them."""
    origin = get_origin(hint)
    if origin in (Annotated, Union, UnionType):
        for part in get_args(hint)[: 1 if origin is Annotated else None]:
            yield from named_types(part)
    else:
        yield NoneType if hint is None else origin or hint
