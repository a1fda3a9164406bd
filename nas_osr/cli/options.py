"""The command line and YAML files as options of a dataclass or a function.

    --config FILE.yaml        values by name; the command line wins
    --name VALUE              also --name=VALUE; a dash in a name counts as an underscore
    --flag, --no_flag         truth values; also --flag=true
    --settings.KEY VALUE      one entry of a mapping
    --list A,B                also --list "[A, B]"; a name with a comma, colon or bracket in quotes: --list '"A, B",C'
    --print_config            print all values as YAML and stop
    --help                    print every option and stop

A value is taken as it is where an option takes text, and read as YAML elsewhere; none can import or build a class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING
from pathlib import Path
from types import NoneType
from typing import Any, Literal

from nas_osr.cli.help_text import help_text
from nas_osr.configuration import check_complete, check_options
from nas_osr.errors import UserError, show, suggest
from nas_osr.files.storage import read_config
from nas_osr.files.yaml_text import CLASS_LISTS, format_yaml, parse_yaml
from nas_osr.option_docs import list_defaults, named_types, option_types
from nas_osr.plain import plain

TEXTS = {str, Path, Literal, Any}
Given = tuple[str, list[str], Any]
"""An option, the keys of the entry of it that is given, and the value."""


def parse_options(
    kind: Callable[..., Any],
    arguments: list[str],
    command: str,
    positionals: tuple[str, ...] = (),
    examples: tuple[str, ...] = (),
) -> dict[str, Any] | None:
    """The options that are given, as `check_options` converts them; None when only help or the configuration was asked
    for and is printed.

    Args:
        kind: a dataclass or a function.
        arguments: the command line after the command.
        command: the command's name.
        positionals: options that may be given without their name, in this order; a list at the end takes all that is
            left.
        examples: command lines for --help.

    Raises:
        UserError: an unknown option, a value of the wrong type, a missing one, or a broken configuration file.
    """
    types = option_types(kind)
    given = list(split_arguments(arguments, types, getattr(kind, "FORMER", {}), command))
    if any(name == "help" for name, *_ in given):
        print(help_text(kind, command, positionals, examples))
        return None
    values: dict[str, Any] = {}
    for path in (value for name, _, value in given if name == "config"):
        where = f"{command}: --config"
        try:
            found = read_config(path)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        values |= check_options(kind, found, f"{where}: {path}")
    named = [(name, keys, read_value(name, keys, text, types, command)) for name, keys, text in given if name in types]
    loose = [text for name, _, text in given if not name]
    named += name_loose(loose, positionals, types, command)
    for name, keys, value in named:
        values[name] = set_entry(values.get(name), keys, value)
    values |= check_options(kind, {name: values[name] for name, *_ in named}, command, "--")
    if any(name == "print_config" for name, *_ in given):
        defaults = {name: None if value is MISSING else value for name, value in list_defaults(kind).items()}
        print(format_yaml(plain({**defaults, **values}, command)), end="")
        return None
    return check_complete(kind, values, command)


def split_arguments(
    arguments: list[str], types: Mapping[str, Any], former: Mapping[str, str], command: str
) -> Iterator[Given]:
    """What each argument gives: a text, True or False for a flag; "" names one without a name. Raises UserError.

    Args:
        former: see `nas_osr.configuration.rename_former`.
    """
    flags = {name for name, hint in types.items() if hint is bool}
    without_value = {**{f"no_{name}": (name, False) for name in flags}, "help": ("help", True)}
    without_value["print_config"] = ("print_config", True)
    known = [*types, *without_value, "config"]
    rest = iter(arguments)
    for argument in rest:
        if argument == "-h":
            argument = "--help"
        if not argument.startswith("--") or argument == "--":
            yield "", [], argument
            continue
        option, equals, text = argument[2:].partition("=")
        name, *keys = option.split(".")
        name = name.replace("-", "_")
        if name in former:
            name, keys = former[name], [name, *keys]
        if name not in known:
            raise UserError(f"{command}: unknown option --{name}{suggest(name, known, '--')}")
        if name in without_value:
            if equals or keys:
                raise UserError(f"{command}: --{name} takes no value")
            yield without_value[name][0], [], without_value[name][1]
        elif name in flags and not equals:
            yield name, keys, True
        else:
            value = text if equals else next(rest, "--")
            if not equals and value.startswith("--"):
                raise UserError(f"{command}: --{option} needs a value")
            yield name, keys, value


def name_loose(
    loose: list[str], positionals: tuple[str, ...], types: Mapping[str, Any], command: str
) -> Iterator[Given]:
    """What arguments without a name give, the last option all that is left where it is a list. Raises UserError."""
    for place, name in enumerate(positionals):
        if place == len(positionals) - 1 and takes_list(types[name]) and loose[place:]:
            yield name, [], loose[place:]
            return
        if place < len(loose):
            yield name, [], read_value(name, [], loose[place], types, command)
    if len(loose) > len(positionals):
        raise UserError(f"{command}: unexpected argument {show(loose[len(positionals)])}")


def read_value(name: str, keys: list[str], text: Any, types: Mapping[str, Any], command: str) -> Any:
    """The plain value that the text of an option, or of an entry of it, stands for.

    Text that is no YAML stays as it is where the type of the option will refuse it. Raises UserError for an entry.
    """
    if not isinstance(text, str):
        return text
    if keys:
        return parse_yaml(text, f"{command}: --{'.'.join([name, *keys])}")
    hint = types[name]
    parts = set(named_types(hint))
    if text == "null" and parts & {NoneType, Any}:
        return None
    whole = text.lstrip()[:1] in ("[", "{")
    texts = TEXTS - {Literal} if parts & {int, float} else TEXTS  # a number, or a word such as auto
    if parts & texts and not (whole and parts & {list, dict, Any}):
        return text
    items = f"[{text}]" if takes_list(hint) and not whole else text
    try:
        return parse_yaml(text.lower() if bool in parts else items, name, names=name in CLASS_LISTS)
    except UserError:
        return text


def takes_list(hint: Any) -> bool:
    """Whether an option takes a list (or null) and no text."""
    parts = set(named_types(hint))
    return list in parts and not parts & TEXTS


def set_entry(whole: Any, keys: list[str], value: Any) -> Any:
    """The value, or a mapping with the value at these nested keys."""
    if not keys:
        return value
    entries = whole if isinstance(whole, dict) else {}
    return {**entries, keys[0]: set_entry(entries.get(keys[0]), keys[1:], value)}
