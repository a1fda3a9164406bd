"""Options of a command from a dataclass or a function: names, types and defaults from its signature, help from its
docstring; values from the command line and from one YAML file.

    --config FILE.yaml        values by name; the command line wins
    --name VALUE              also --name=VALUE; a dash in a name counts as an underscore
    --flag, --no_flag         truth values; also --flag=true
    --settings.KEY VALUE      one entry of a mapping
    --list A,B                also --list "[A, B]"
    --print_config            print all values as YAML and stop
"""

from __future__ import annotations

import difflib
import json
import re
from argparse import ArgumentError
from collections.abc import Callable
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from jsonargparse import ActionYesNo, ArgumentParser, set_parsing_settings

from nas_osr.errors import UserError
from nas_osr.files.storage import read_config
from nas_osr.option_docs import Option, list_options, summary

OWN_OPTIONS = {"config": True, "help": False, "print_config": False}  # and whether a value follows


def parse_options(
    target: Callable[..., Any], arguments: list[str], command: str, positionals: tuple[str, ...] = ()
) -> dict[str, Any] | None:
    """The value of every option; None when only help or the configuration was asked for and is printed.

    Args:
        target: a dataclass or a function, see `list_options`.
        arguments: the command line after the command.
        command: the command's name.
        positionals: options that may be given without their name, in this order; a list at the end takes all that is
            left.

    Raises:
        UserError: an unknown option, a value of the wrong type, a missing one, or a broken configuration file.
    """
    options = list_options(target)
    parser = build_parser(options, f"nas-osr {command}", summary(target), positionals)
    named = name_all(arguments, options, positionals, command)
    for argument in named:
        if argument.startswith("--config="):  # more careful than the parser
            check_config_file(argument.partition("=")[2], command)
    try:
        namespace = parser.parse_args(named)
    except ArgumentError as error:
        raise UserError(f"{command}: {explain(str(error), options)}") from None
    except OSError as error:
        raise UserError(f"{command}: --config: {error.strerror or error}") from None
    except SystemExit as stop:
        if stop.code:
            raise
        return None
    values = {name: value for name, value in namespace.as_dict().items() if name not in OWN_OPTIONS}
    foreign = [name for name in values if name not in {option.name for option in options}]
    if foreign:
        raise UserError(f"{command}: --config: there is no option {foreign[0]}")
    for option in options:
        if option.default is MISSING and values[option.name] is None:
            raise UserError(f"{command}: {option.name} is missing: {option.help}")
    return values


def build_parser(options: list[Option], program: str, description: str, positionals: tuple[str, ...]) -> ArgumentParser:
    """A parser with every option by name; nothing that it reads can import or build a class."""
    set_parsing_settings(import_path_denylist=["*"], instantiate_subclass_spec_in_any=False)
    required = {option.name for option in options if option.default is MISSING}
    many = {option.name for option in options if is_list(option.type)}
    places = [name.upper() + (" ..." if name in many else "") for name in positionals]
    places = [place if name in required else f"[{place}]" for name, place in zip(positionals, places, strict=True)]
    parser = ArgumentParser(
        prog=program,
        usage=" ".join([program, *places, "[--OPTION VALUE ...]"]),
        description=description,
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file with values for the options below.")
    group = parser.add_argument_group("options of this command")
    for option in options:
        help_text = option.help.replace("%", "%%")
        if option.type is bool:
            group.add_argument(
                f"--{option.name}", action=ActionYesNo(no_prefix="no_"), default=option.default, help=help_text
            )
        else:
            default = None if option.default is MISSING else option.default
            group.add_argument(f"--{option.name}", type=option.type, default=default, help=help_text)
    return parser


def name_all(arguments: list[str], options: list[Option], positionals: tuple[str, ...], command: str) -> list[str]:
    """The arguments in the one form that the parser reads: every value named, dashes in names as underscores.

    Positional values come last, so that they win over a configuration file.
    """
    flags = {option.name for option in options if option.type is bool}
    takes_value = {**{option.name: option.name not in flags for option in options}, **OWN_OPTIONS}
    takes_value |= {f"no_{name}": False for name in flags}
    lists = {option.name for option in options if is_list(option.type)}
    named, loose = [], []
    rest = iter(arguments)
    for argument in rest:
        if argument in ("-h", "--help"):
            named.append("--help")
        elif argument.startswith("--") and len(argument) > 2:
            name, equals, value = argument[2:].partition("=")
            head, dot, key = name.partition(".")
            head = head.replace("-", "_")
            if head.rstrip("+") not in takes_value:
                raise UserError(f"{command}: unknown option --{head}{suggest(head, list(takes_value))}")
            if head in flags and equals:
                named.append(f"--{head}" if parse_flag(head, value, command) else f"--no_{head}")
            elif not takes_value[head.rstrip("+")]:
                named.append(f"--{head}{equals}{value}")
            else:
                given = value if equals else next(rest, None)
                if given is None:
                    raise UserError(f"{command}: --{head}{dot}{key} needs a value")
                bare = head in lists and not given.lstrip().startswith("[") and given != "null"
                named.append(f"--{head}{dot}{key}={f'[{given}]' if bare else given}")
        else:
            loose.append(argument)
    if positionals and positionals[-1] in lists and len(loose) >= len(positionals):
        loose[len(positionals) - 1 :] = [json.dumps(loose[len(positionals) - 1 :])]
    if len(loose) > len(positionals):
        raise UserError(f"{command}: unexpected argument {loose[len(positionals)]!r}")
    return named + [f"--{name}={value}" for name, value in zip(positionals, loose, strict=False)]


def check_config_file(path: str, command: str) -> None:
    """UserError unless the file is YAML of plain values by name, of bounded size."""
    try:
        read_config(path)
    except UserError as error:
        raise UserError(f"{command}: --config: {error}") from None


def is_list(hint: Any) -> bool:
    """Whether an option takes a list (or null) and no text."""
    parts = {getattr(part, "__origin__", part) for part in getattr(hint, "__args__", ())}
    return getattr(hint, "__origin__", None) is list or (list in parts and str not in parts)


def parse_flag(name: str, text: str, command: str) -> bool:
    """True or false from its word. Raises UserError."""
    if text.lower() not in ("true", "false"):
        raise UserError(f"{command}: --{name} must be true or false, got {text!r}")
    return text.lower() == "true"


def explain(message: str, options: list[Option]) -> str:
    """The parser's complaint in one line that names the option, what it expects and what it got."""
    about = re.search(r'[Pp]arser key "([^"]+)"', message)
    given = re.search(r"Given value: (.*)", message) or re.search(r"Got value: (.*)", message)
    types = {option.name: option.type for option in options}
    if about and given and about[1] in types:
        return f"--{about[1]} must be {describe_type(types[about[1]])}, got {given[1]!r}"
    unknown = re.fullmatch(r"Option '([^']+)' is not accepted", message.strip())
    if unknown:
        return f"--config: there is no option {unknown[1]}{suggest(unknown[1], list(types))}"
    return " ".join(re.sub(r'[Pp]arser key "([^"]+)":', r"--\1:", message).split())


def describe_type(hint: Any) -> str:
    """A type for people, e.g. "a whole number or null"."""
    if hint is type(None):
        return "null"
    words = {int: "a whole number", float: "a finite number", str: "text", Path: "a path", bool: "true or false"}
    if hint in words:
        return words[hint]
    parts = getattr(hint, "__args__", ())
    origin = getattr(hint, "__origin__", None)
    if origin is list:
        return "a list [...]"
    if origin is dict:
        return "a mapping {name: value, ...}"
    return " or ".join(map(describe_type, parts)) if parts else str(hint)


def suggest(name: str, names: list[str]) -> str:
    """ "; did you mean --NAME?" when there is a similar name."""
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean --{close[0]}?" if close else ""
