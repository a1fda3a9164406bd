"""`nas-osr search`: find an architecture."""

from __future__ import annotations

import shlex

from nas_osr.cli.show import show_dry_run, show_json, show_next
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
        print(f"{result['seconds']:.0f} seconds, everything in {result['out']}")
        show_next(f"retrain {shlex.quote(result['out'])}")
