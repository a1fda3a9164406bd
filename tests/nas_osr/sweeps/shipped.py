"""Shipped sweeps on a few digits, in this process, for their tests."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from nas_osr.cli.main import main
from nas_osr.cli.sweep import check_sweep, option_names
from nas_osr.sweeps.sweep_file import read_sweep
from nas_osr.sweeps.sweep_folder import SweepFolder

SMALL = {
    "protocol": "digits", "preset": "tiny", "channels": 16, "epochs": 1, "batch_size": 32, "limit_per_class": 20,
    "limit": 20, "splits": "0", "bootstrap": 0, "device": "cpu", "threads": 1, "kinds": ["contrast"], "severities": "3",
    "estimators": ["TwoNN"], "iterations": 50,
}  # fmt: skip
DISCRETE = {"network": None, "architecture": "random:0"}


def run_shipped(name: str, out: Path, keep: str = "", **changes: Any) -> dict[str, Path]:
    """Run those of a shipped sweep in whose name the pattern `keep` is found, in its order; the folder of each."""
    offered = {option for run in read_sweep(name, option_names).runs for option in option_names(run.command)}
    small = {option: value for option, value in {**SMALL, **changes}.items() if option in offered}
    sweep = read_sweep(name, option_names, small)
    chosen = {run.name for run in sweep.runs if re.search(keep, run.name)}
    check_sweep(sweep, chosen)
    folder = SweepFolder(out, option_names)
    done = {}
    with folder.locked():
        for run in sweep.runs:
            if run.name in chosen:
                assert main(folder.begin(run).argument) == 0, run.name
                folder.end(run, "finished", "")
                done[run.name] = out / run.name
    return done
