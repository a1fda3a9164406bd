"""What `nas-osr COMMAND --help` prints."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import MISSING
from pathlib import Path
from typing import Any, Literal, get_args

from nas_osr.files.paths import absolute_path, user_path
from nas_osr.option_docs import Option, list_options, named_types, summary

WIDTH = 100
INDENT = 26  # of what an option means
VALUES = {
    int: "N",
    float: "X",
    bool: "true|false",
    str: "TEXT",
    Path: "PATH",
    list: "A,B,...",
    dict: "{...}",
    Any: "VALUE",
    Literal: "NAME",
}
GENERAL = [
    ("--config FILE", "YAML file with values for the options above; the command line wins."),
    ("--print_config", "print all values as YAML and stop."),
    ("--help", "print this and stop."),
]


def help_text(kind: Callable[..., Any], command: str, positionals: tuple[str, ...], examples: tuple[str, ...]) -> str:
    """Usage, what the command does, examples, and every option in its group, the command's own first."""
    options = {option.name: option for option in list_options(kind)}
    places = []
    for name in positionals:
        place = name.upper() + (" ..." if list in named_types(options[name].type) else "")
        places.append(place if options[name].default is MISSING else f"[{place}]")
    named = [f"--{name} VALUE" for name, option in options.items() if option.default is MISSING]
    named = [text for text in named if text.split()[0][2:] not in positionals]
    lines = [" ".join([f"usage: nas-osr {command}", *places, *named, "[--OPTION VALUE ...]"])]
    for paragraph in summary(kind).split("\n\n"):
        lines += ["", *textwrap.wrap(paragraph, WIDTH)]
    if examples:
        lines += ["", "examples:", *(f"  nas-osr {example}" for example in examples)]
    if positionals:
        lines += ["", "arguments, in this order; each may be given by its name as well:"]
        lines += [line for name in positionals for line in entry(f"{name.upper()}, --{name}", options[name])]
    rest = [option for option in options.values() if option.name not in positionals]
    for group in sorted(dict.fromkeys(option.group for option in rest), key=bool):
        lines += ["", f"{group or 'options of this command'}:"]
        lines += [line for option in rest if option.group == group for line in entry(heading(option), option)]
    return "\n".join([*lines, "", "of every command:", *(line for pair in GENERAL for line in beside(*pair))])


def heading(option: Option) -> str:
    """The option and the form of its value."""
    if option.type is bool:
        return f"--{option.name}" + (f", --no_{option.name}" if option.default is True else "")
    values = [VALUES[part] for part in named_types(option.type) if part in VALUES]
    if values[0] == "TEXT":
        values[0] = "NAME" if option.choices else "PATH" if is_path(option.type) else "TEXT"
    return f"--{option.name} {values[0]}"


def is_path(hint: Any) -> bool:
    """Whether a text is the path of a file or folder."""
    return bool({user_path, absolute_path} & set(get_args(hint))) or any(map(is_path, get_args(hint)))


def entry(head: str, option: Option) -> list[str]:
    """An option and its meaning beside it; what it may be comes below where the line is full."""
    lines = beside(head, option.meaning)
    if not option.about or len(lines) == len(beside(head, option.help)):
        return lines
    return [*beside(head, option.help), *wrap_meaning(option.about)]


def beside(head: str, text: str) -> list[str]:
    """A text beside what it is about, or below where that is long."""
    first = f"  {head:<{INDENT - 3}} "
    filled = wrap_meaning(text)
    return [first + filled[0].lstrip(), *filled[1:]] if len(first) <= INDENT else [first.rstrip(), *filled]


def wrap_meaning(text: str) -> list[str]:
    """A text in the column of meanings."""
    return textwrap.wrap(text, WIDTH, initial_indent=" " * INDENT, subsequent_indent=" " * INDENT)
