"""`nas-osr tabulate`: train the architectures of a space into a table to search in."""

from __future__ import annotations

import shlex

from nas_osr.cli.show import duration, show_json, show_next, show_yaml
from nas_osr.runs.resumption import resuming
from nas_osr.strategies.tabulate import run_tabulate
from nas_osr.strategies.tabulate_request import TabulateRequest


def tabulate(config: TabulateRequest, command: list[str]) -> None:
    """Fill the table as configured and print what is in it."""
    try:
        result = run_tabulate(config, command)
    except KeyboardInterrupt as interruption:
        raise type(interruption)(f"go on with: {resuming(command)}") from None
    if config.json:
        show_json(result)
    elif config.dry_run:
        show_yaml(result["would_tabulate"])
        true, pas = (duration(seconds) for seconds in result["seconds"].values())
        print(f"# one after the other, here: about {true} on all known classes, and {pas} as in a search")
    else:
        of = "all" if result["complete"] else "a sample"
        print(f"{result['architectures']} architectures ({of}), {result['trainings']} trainings in {result['out']}")
        show_next(f"table {shlex.quote(result['out'])}")
