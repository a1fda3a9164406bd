"""Every command, option, snippet and link of the documentation is true: parsed here where no other test runs it."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from nas_osr.cli.commands import COMMANDS, Command
from nas_osr.cli.main import is_own_analysis, split_command
from nas_osr.cli.options import parse_options
from nas_osr.option_docs import Choices, option_types
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.sweeps.sweep_file import read_sweep

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
#: What stands for a value that the reader chooses, where a command would refuse the word itself.
STANDS_FOR = {
    "EPOCHS": "3", "K": "2", "LR": ".01", "N": "2", "P": "32-true", "R": "1", "S": "0",
    "OBJECTIVE": "cac", "RULE": "mls", "STEM": "pooled",
}  # fmt: skip
OTHER_PROGRAMS = {"pip", "python", "tensorboard", "torchrun", "twine"}
#: Shell without any program but ours, which writes down what it is called with.
SHELL = """
note() { printf '%s\\0' "$@" >> "$NOTES"; printf '\\n\\0' >> "$NOTES"; }
nas-osr() { note "$@"; }
torchrun() { while [ "$1" != nas_osr ]; do shift; done; shift; note "$@"; }
sbatch() { eval "${!#}"; }
command_not_found_handle() { :; }
PATH=/nowhere
"""


def fences(page: Path, kind: str) -> list[str]:
    return re.findall(rf"^ *```{kind}\n(.*?)^ *```", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def inline(page: Path) -> list[str]:
    """What stands between backticks in a page's prose and tables."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [text.replace("\\|", "|") for text in re.findall(r"`([^`\n]+)`", prose)]


def shown_commands(page: Path, folder: Path) -> Iterator[list[str]]:
    """The arguments of every command in a page's shell blocks, as a shell sees them: loops, variables, redirections."""
    notes = folder / "notes"
    for text in fences(page, "sh"):
        notes.write_text("")
        environment = {**os.environ, "NOTES": str(notes)}
        subprocess.run(["/bin/bash", "-c", SHELL + text], cwd=folder, env=environment, capture_output=True, check=False)
        words: list[str] = []
        for word in notes.read_text().split("\0")[:-1]:
            if word == "\n":
                yield words
                words = []
            else:
                words.append(word)


def check_command(words: list[str]) -> None:
    """UserError, or an assertion, unless the command line would take this."""
    words = [STANDS_FOR.get(word, word) for word in words if word != "..."]
    name, rest = split_command(words)
    if is_own_analysis(name):
        return  # its options are those of a class that the page shows, and another test runs
    command = COMMANDS[name]
    values = parse_options(command.options, rest, name, command.positionals) or {}
    for option, value in values.items():
        for choices in found_choices(option_types(command.options)[option]):
            # `plain:width=48,whitening=true` is one name
            for item in value if isinstance(value, list) else re.split(",(?!\\w+=)", str(value)):
                known = item in choices.names or item.split(":")[0] in choices.names
                assert known or (choices.plugins and re.search("[.:]", item)), f"--{option} {item}"


def found_choices(hint: Any) -> Iterator[Choices]:
    for part in get_args(hint):
        if isinstance(part, Choices):
            yield part
        else:
            yield from found_choices(part)


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    generated = {"commands", "python", "notebook.md"}
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert generated & {*Path(target).parts} or (page.parent / target).exists(), target


@each_page
def test_commands_are_parsed_by_the_command_line(
    page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = list(shown_commands(page, tmp_path))
    assert len(shown) >= sum(line.startswith("nas-osr ") for text in fences(page, "sh") for line in text.splitlines())
    for words in shown:
        check_command(words)


@each_page
def test_options_in_the_text_exist(page: Path) -> None:
    if page.name == "CHANGELOG.md":
        return  # tells of options that have gone, too
    every = {name for command in COMMANDS.values() for name in options_of(command)}
    for text in inline(page):
        given = {name.removeprefix("no_") for name in re.findall(r"(?:^|\s)--([a-z]\w*)", text)}
        words = shlex.split(text.removeprefix("nas-osr "), comments=True) if given else [""]
        name = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in COMMANDS), None)
        others = words[0] in OTHER_PROGRAMS or words[0].endswith(".py")
        assert others or given <= (options_of(COMMANDS[name]) if name else every), text


def options_of(command: Command) -> set[str]:
    general = {"config", "print_config", "help", "version"}
    return {*option_types(command.options), *getattr(command.options, "FORMER", {}), *general}


@each_page
def test_snippets_are_python_of_names_that_exist(page: Path) -> None:
    for text in fences(page, "python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nas_osr"):
                module = importlib.import_module(str(node.module))
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@each_page
def test_files_that_are_shown_are_read(page: Path, tmp_path: Path) -> None:
    for text in fences(page, "json"):
        (tmp_path / "architecture.json").write_text(text)
        assert Architecture.load(tmp_path / "architecture.json").branches
        assert json.loads(text)["schema"] in (1, 2)
    for text in fences(page, "yaml"):
        (tmp_path / "sweep.yaml").write_text(text)
        sweep = read_sweep(str(tmp_path / "sweep.yaml"), lambda name: set(option_types(COMMANDS[name].options)))
        assert sweep.runs


def test_every_block_says_what_it_is() -> None:
    kinds = {
        (page.name, kind)
        for page in PAGES
        for kind in re.findall(r"^```(\S*)\n.*?^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    }
    assert {kind for _, kind in kinds} <= {"sh", "python", "json", "yaml", "text"}


@each_page
def test_every_table_has_a_heading_and_whole_rows(page: Path) -> None:
    """Rows after an empty line are shown as text with bars in it."""
    prose = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for table in re.findall(r"(?:^\|.*\n?)+", prose, flags=re.MULTILINE):
        rows = table.splitlines()
        assert len(rows) > 1 and re.fullmatch(r"\|(\s*:?-+:?\s*\|)+", rows[1]), rows[0]
        assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {rows[1].count("|")}, rows[0]
