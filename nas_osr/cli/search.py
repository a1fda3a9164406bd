"""`nas-osr search`: find an architecture."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from nas_osr.cli.show import show_dry_run, show_json, show_next, show_table
from nas_osr.search_spaces.architectures.decoding import format_way
from nas_osr.strategies.run import run_search
from nas_osr.strategies.search_request import SearchRequest


def search(config: SearchRequest, command: list[str]) -> None:
    """Search as configured and print what was found."""
    result = run_search(config, command)
    if config.json:
        show_json(result)
    elif config.dry_run:
        show_dry_run(result)
    else:
        where = "in trial" if result["phase"] == "trial" else "at epoch"
        print(f"F1 {result['f1']:.4f} on pseudo-unknown classes {where} {result['epoch'] + 1}")
        for scale, branch in result["branches"].items():
            print(f"branch {scale} (scale:operation of each layer): {format_way(branch)}")
        for cell, way in result.get("joins", {}).items():
            print(f"second input of cell {cell} (layer/scale): {format_way(way)}")
        if "choices" in result:
            print(", ".join(f"{name} {value}" for name, value in result["choices"].items()))
        if result["stopped"] is not None:
            print(f"stopped early by {result['stopped']}")
        show_front(result["front"])
        print(f"{result['seconds']:.0f} seconds, everything in {result['out']}")
        show_next(f"retrain {shlex.quote(result['out'])}")


def show_front(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print as a table what `nas_osr.strategies.trials.front.read_front` has of a search; nothing of no rows."""
    if rows:
        figures = [name for name in rows[0] if name not in ("trial", "file")]
        print(f"front, the networks that no trial beats in both {figures[0]} and {figures[1]}:")
        cells = [[str(row.get("file", "")), *(show_figure(row.get(name)) for name in figures)] for row in rows]
        show_table([["file", *figures], *cells])


def show_figure(value: Any) -> str:
    """A count with separators, another number with four digits."""
    return f"{value:,}" if isinstance(value, int) else "-" if value is None else f"{value:.4f}"
