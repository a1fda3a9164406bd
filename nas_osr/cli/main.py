"""`nas-osr COMMAND`: finds the command, parses for it, and turns a user's mistake into one line and exit code 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import nas_osr
from nas_osr.cli.commands import COMMANDS, FAMILIES, OTHERS, Command
from nas_osr.cli.streams import prepare_streams, settle_streams
from nas_osr.errors import UserError, suggest
from nas_osr.files.storage import os_errors
from nas_osr.plugins import load
from nas_osr.ranks.place import one_voice, refuse_ranks
from nas_osr.retrain.analysis import analysis_class
from nas_osr.runs.progress import tell
from nas_osr.runs.stopping import Terminated, terminable

EXIT_SYSTEM_ERROR = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
EXIT_TERMINATED = 143
SPINS = "20000"
MAX_MESSAGE = 4000  # characters; a broken file may have put any number into it


def set_waiting() -> None:
    """How torch's CPU threads wait for work, unless the user has said: before torch is imported.

    Busy waiting stalls shared processors for seconds, and sleeping at once makes two threads slower than one, so they
    look for work a little while and sleep then. docs/results/how-fast.md has the figures.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `nas-osr` with these arguments (the process's own by default) and return its exit code."""
    set_waiting()
    prepare_streams()
    try:
        with terminable(), one_voice(), os_errors():
            dispatch(list(sys.argv[1:] if arguments is None else arguments))
            sys.stdout.flush()
        return 0
    except UserError as error:
        tell(f"nas-osr: error: {' '.join(str(error).split())[:MAX_MESSAGE]}")
        return EXIT_USER_ERROR
    except KeyboardInterrupt as interruption:
        terminated = isinstance(interruption, Terminated)
        happened = "terminated" if terminated else "interrupted"
        tell("; ".join([f"nas-osr: {happened}", *map(str, interruption.args)]))
        return EXIT_TERMINATED if terminated else EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader has gone, as in `nas-osr data list | head -1`
        return EXIT_BROKEN_PIPE
    except OSError as error:  # of no file: the output, most likely
        tell(f"nas-osr: error: {error.strerror or error}")
        return EXIT_SYSTEM_ERROR
    finally:
        settle_streams()


def dispatch(arguments: list[str]) -> None:
    """Run the command that the arguments name. Raises UserError when there is none."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview(COMMANDS))
        return
    if arguments[0] == "--version":
        print(f"nas-osr {nas_osr.__version__}")
        return
    family = {name: item for name, item in COMMANDS.items() if name.startswith(f"{arguments[0]} ")}
    if family and arguments[1:2] in (["-h"], ["--help"]):
        print(overview(family))
        return
    name, rest = split_command(arguments)
    command = COMMANDS.get(name) or own_analysis(name)
    from nas_osr.cli.options import parse_options

    values = parse_options(command.options, rest, name, command.positionals, command.examples)
    if values is None:
        return
    if not command.ranks:
        refuse_ranks(f"nas-osr {name}")
    if command.config is None:
        load(command.function)(**values)
    else:
        request = command.options(**values)
        if command.ranks and sys.stderr.isatty() and not (request.quiet or request.dry_run):
            announce(name, request)
        load(command.function)(request, ["nas-osr", *arguments])


def announce(name: str, request: Any) -> None:
    """Say on a terminal what a long command begins with, long before torch is there to check and compute it."""
    about = {"protocol": "protocol", "strategy": "strategy", "network": "network", "splits": "splits", "out": "into"}
    given = {title: getattr(request, field, None) for field, title in about.items()}
    tell("  ".join([name, *(f"{title} {value}" for title, value in given.items() if value is not None)]))


def split_command(arguments: list[str]) -> tuple[str, list[str]]:
    """The command that leads the arguments, of one word or two, and the rest. Raises UserError."""
    for words in (2, 1):
        name = " ".join(arguments[:words])
        if len(arguments) >= words and (name in COMMANDS or is_own_analysis(name)):
            return name, arguments[words:]
    first = arguments[0]
    family = [name for name in COMMANDS if name.startswith(f"{first} ")]
    if family:
        kinds = [name.split()[1] for name in family]
        hint = suggest(arguments[1], kinds) if len(arguments) > 1 else ""
        raise UserError(f"nas-osr {first} needs one of {', '.join(kinds)} after it{hint}")
    raise UserError(f"unknown command {first!r}{suggest(first, COMMANDS, instead='choose one of', before=': ')}")


def is_own_analysis(name: str) -> bool:
    """Whether a command of two words names a kind of analysis by dotted path."""
    return name.startswith("analyse ") and "." in name


def own_analysis(name: str) -> Command:
    """The command of a user's own kind of analysis, "analyse package.module.Class". Raises UserError."""
    kind = name.split()[1]
    analysis_class(kind)
    return Command("nas_osr.cli.analyse:analyse", "", (f"{name} RUN",), ("run",), config=":".join(kind.rsplit(".", 1)))


def overview(commands: dict[str, Command]) -> str:
    """The text of `nas-osr --help`, for all commands or some."""
    width = max(map(len, commands)) + 2
    family = {first: title for title, names in FAMILIES.items() for first in names}
    parts: dict[str, list[str]] = {title: [] for title in FAMILIES}
    for name, command in commands.items():
        parts[family.get(name.split()[0], OTHERS)].append(f"  {name:<{width}}{command.summary}")
    lines = "\n\n".join("\n".join([f"{title}:", *parts[title]]) for title in FAMILIES if parts[title])
    return f"""usage: nas-osr COMMAND [OPTIONS]

Neural architecture search for open-set image recognition.

{lines}

`nas-osr COMMAND --help` shows the options of a command, `nas-osr --version` the version."""
