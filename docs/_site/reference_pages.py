"""Pages that nobody writes: commands from their help, Python from docstrings, the notebook from its file."""

from __future__ import annotations

import html
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import nas_osr
from nas_osr.cli.commands import COMMANDS, FAMILIES, OTHERS, Command
from nas_osr.cli.help_text import GENERAL, heading
from nas_osr.option_docs import Option, list_options, summary

#: Public functions that take the options of a command.
AS_COMMANDS = {"search": "search", "train": "retrain", "evaluate": "evaluate", "fit": "fit"}
REQUESTS = {"SearchRequest": "search", "RetrainRequest": "retrain"}
#: Public names by page; of the seams, which are imported from where they are, the whole name.
PYTHON: dict[str, tuple[str, ...]] = {
    "Models": ("load", "OpenSetModel", "OpenSetClassifier", "score_arrays"),
    "Architectures": ("Architecture", "Branch", "load_architecture", "export_architecture"),
    "Data": ("Protocol", "make_protocol", "load_data"),
    "Objectives and rules": ("Outputs", "Objective", "make_objective", "ScoringRule", "Scores", "make_rule"),
    "Run folders": ("RunFolder", "UserError"),
    "Seams": (
        "nas_osr.strategies.base.Strategy",
        "nas_osr.strategies.trials.base.Trials",
        "nas_osr.search_spaces.space.Space",
        "nas_osr.data.sources.base.Source",
        "nas_osr.retrain.networks.base.Network",
        "nas_osr.retrain.analysis.base.Analysis",
        "nas_osr.sweeps.executor.Executor",
    ),
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the generated pages into the navigation."""
    reference = next(part["Reference"] for part in config.nav or [] if "Reference" in part)
    commands = [{name: f"reference/commands/{slug(name)}.md"} for name in COMMANDS]
    python = [{title: f"reference/python/{slug(title)}.md"} for title in PYTHON]
    reference.append({"Commands": ["reference/commands/index.md", *commands]})
    reference.append({"Python": ["reference/python/index.md", *python]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for name, text in generated(Path(config.docs_dir)):
        files.append(File.generated(config, name, content=text))
    return files


def generated(docs: Path) -> Iterator[tuple[str, str]]:
    """Path and text of each generated page."""
    yield "reference/commands/index.md", commands_page()
    for name, command in COMMANDS.items():
        yield f"reference/commands/{slug(name)}.md", command_page(name, command)
    yield "reference/python/index.md", python_page()
    for title, names in PYTHON.items():
        entries = "\n\n".join(f"::: {place_of(name)}" for name in names)
        yield f"reference/python/{slug(title)}.md", f"# {title}\n\n{entries}\n"
    notebook = docs / "tutorials" / "notebook.ipynb"
    yield "tutorials/notebook.md", notebook_page(json.loads(notebook.read_text()))


def slug(name: str) -> str:
    """The name of a page's file."""
    return name.lower().replace(" ", "-")


def place_of(name: str) -> str:
    """Module and name of what a public name stands for."""
    value = getattr(nas_osr, name) if "." not in name else None
    return name if value is None else f"{value.__module__}.{name}"


def commands_page() -> str:
    """All commands, by what they are for."""
    family = {first: title for title, firsts in FAMILIES.items() for first in firsts}
    lines = ["# Commands", "", "`nas-osr COMMAND --help` says the same."]
    for title in FAMILIES:
        own = [name for name in COMMANDS if family.get(name.split()[0], OTHERS) == title]
        lines += ["", f"## {title.capitalize()}", "", "| command | what it does |", "|---|---|"]
        lines += [f"| [`{name}`]({slug(name)}.md) | {cell(COMMANDS[name].summary)} |" for name in own]
    return "\n".join([*lines, ""])


def command_page(name: str, command: Command) -> str:
    """Usage, examples, and a table for each group of options."""
    options = list_options(command.options)
    lines = [f"# nas-osr {name}", "", *map(paragraph, summary(command.options).split("\n\n"))]
    lines += ["```sh", *(f"nas-osr {example}" for example in command.examples), "```"]
    groups = [("Arguments, in this order", [item for item in options if item.name in command.positionals])]
    rest = [item for item in options if item.name not in command.positionals]
    for title in sorted(dict.fromkeys(item.group for item in rest), key=bool):
        groups.append((title or "Options of this command", [item for item in rest if item.group == title]))
    for title, members in groups:
        if members:
            lines += ["", f"## {title[0].upper()}{title[1:]}", "", "| option | what it means |", "|---|---|"]
            lines += [row(item, command) for item in members]
    lines += ["", "## Of every command", "", "| option | what it means |", "|---|---|"]
    lines += [f"| `{option}` | {cell(meaning)} |" for option, meaning in GENERAL]
    return "\n".join([*lines, ""])


def row(option: Option, command: Command) -> str:
    """An option's line in a table."""
    name = f"{option.name.upper()}, --{option.name}" if option.name in command.positionals else heading(option)
    return f"| `{name.replace('|', chr(92) + '|')}` | {cell(option.meaning)} |"


def paragraph(text: str) -> str:
    """A paragraph of a docstring, and an empty line."""
    return f"{html.escape(' '.join(text.split()), quote=False)}\n"


def cell(text: str) -> str:
    """A text inside a table: not split by its own bars, and no HTML, links or emphasis."""
    parts = re.split(r"(`[^`]*`)", text)
    plain = [part if part.startswith("`") else re.sub(r"([*_\[\]<>])", r"\\\1", part) for part in parts]
    return "".join(plain).replace("|", "\\|")


def python_page() -> str:
    """All public names, with where they are explained."""
    lines = ["# Python", "", "`import nas_osr` has these names; each is imported when it is first used.", ""]
    lines += ["| name | what |", "|---|---|"]
    for name, command in {**AS_COMMANDS, **REQUESTS}.items():
        said = summary(getattr(nas_osr, name)).split(";")[0].rstrip(".")
        takes = f"its options are those of [`nas-osr {command}`](../commands/{slug(command)}.md)"
        lines.append(f"| `{name}` | {cell(said.splitlines()[0])}; {takes} |")
    for title, names in PYTHON.items():
        for name in names:
            value: Any = nas_osr.plugins.load(":".join(place_of(name).rsplit(".", 1)))
            said = (inspect.getdoc(value) or "").splitlines()[0]
            shown = name.rpartition(".")[2]
            lines.append(f"| [`{shown}`]({slug(title)}.md#{place_of(name)}) | {cell(said)} |")
    return "\n".join([*lines, ""])


def notebook_page(notebook: dict[str, Any]) -> str:
    """The cells of a notebook as a page."""
    parts = []
    for part in notebook["cells"]:
        text = "".join(part["source"])
        parts.append(text if part["cell_type"] == "markdown" else f"```python\n{text}\n```")
    title, *rest = parts
    return "\n\n".join([title, "[Download it](notebook.ipynb), and run it cell by cell.", *rest, ""])
