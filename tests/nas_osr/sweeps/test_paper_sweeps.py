"""The shipped sweeps of CAC, GMVAE and NAS-OSR, each from its first run to its last on a few digits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nas_osr.cli.main import main
from nas_osr.cli.sweep import option_names
from nas_osr.sweeps.sweep_file import read_sweep
from nas_osr.sweeps.sweep_folder import SweepFolder

SMALL = {
    "protocol": "digits", "preset": "tiny", "channels": 16, "epochs": 1, "batch_size": 32, "limit_per_class": 20,
    "splits": "0", "bootstrap": 0, "device": "cpu", "threads": 1,
}  # fmt: skip
DISCRETE = {"network": None, "architecture": "random:0"}


def run_sweep(name: str, out: Path, keep: str = "", **changes: Any) -> dict[str, Path]:
    """Run those of a shipped sweep whose name has `keep` in it, in this process; the folder of each."""
    offered = {option for run in read_sweep(name, option_names).runs for option in option_names(run.command)}
    small = {option: value for option, value in {**SMALL, **changes}.items() if option in offered}
    sweep = read_sweep(name, option_names, small)
    folder = SweepFolder(out, option_names)
    done = {}
    with folder.locked():
        for run in sweep.runs:
            if keep in run.name:
                assert main(folder.begin(run).argument) == 0, run.name
                folder.end(run, "finished", "")
                done[run.name] = out / run.name
    return done


def read_result(folder: Path, label: str = "") -> dict[str, Any]:
    return json.loads((folder / "split-0" / f"metrics{label}.json").read_text())


def read_losses(folder: Path) -> dict[str, float]:
    return json.loads((folder / "split-0" / "history.jsonl").read_text())["losses"]


def test_cac_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = run_sweep("cac-tables", tmp_path, "-mnist", **DISCRETE)
    assert {name: read_result(folder)["rule"] for name, folder in folders.items()} == {
        "cac-mnist": "cac",
        "cross-entropy-mnist": "msp",
    }
    assert all(read_result(folder)["protocol"]["family"] == "neal" for folder in folders.values())
    assert main(["compare", str(tmp_path)]) == 0  # AUROC and closed-set accuracy beside the published
    assert len([line for line in capsys.readouterr().out.splitlines() if "random seed 0" in line]) == 2


@pytest.mark.slow
def test_cac_ablation_and_sensitivity(tmp_path: Path) -> None:
    folders = run_sweep("cac-ablation", tmp_path / "ablation", "-tinyimagenet", **DISCRETE)
    terms = {
        name.removesuffix("-tinyimagenet"): set(read_losses(folder))
        for name, folder in folders.items()
        if folder.is_dir()
    }
    assert terms == {
        "cac": {"tuplet", "anchor"},
        "anchor-only": {"anchor"},
        "tuplet-only": {"tuplet"},
        "cross-entropy": {"ce"},
        "center": {"ce", "center"},
    }
    grid = run_sweep("cac-sensitivity", tmp_path / "grid", "cifar10-alpha-1-", **DISCRETE)
    assert len(grid) == 4
    weighted = [name for name, folder in grid.items() if "anchor" in read_losses(folder)]
    assert weighted == [f"cifar10-alpha-1-lambda-{weight}" for weight in ("0.01", "0.1", "1")]


@pytest.mark.slow
def test_nas_osr_tables(tmp_path: Path) -> None:
    folders = run_sweep("nas-osr-tables", tmp_path, "cifar+10", strategy_config={"warmup_epochs": 0})
    softmax, nas_osr = folders["softmax-cifar+10"], folders["nas-osr-cifar+10"]
    assert (read_result(nas_osr)["rule"], read_result(softmax)["rule"]) == ("cap", "msp")
    assert read_result(softmax, "-openmax")["rule"] == "openmax"
    found = [(folder / "split-0" / "architecture.json").read_bytes() for folder in (softmax, nas_osr)]
    assert found[0] == found[1]
    assert read_result(softmax)["protocol"]["family"] == "nas_osr"


def test_the_four_methods_of_gmvae_are_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep = "mnist-merged"
    run_sweep("gmvae-experiments", tmp_path, keep, **DISCRETE)
    [gmvae] = (json.loads((tmp_path / f"gmvae-{keep}" / "split-0" / "history.jsonl").read_text()),)
    assert gmvae["validation_losses"].keys() == {"covering", "kl_w", "reconstruction"}
    capsys.readouterr()
    # as the last run of the sweep has it, which needs all four experiments
    [last] = [run for run in read_sweep("gmvae-experiments", option_names).runs if run.name == "f1-against-q"]
    assert last.command == "analyse unknowns" and last.options == {"run": "{out}", "label": "all"}
    assert len(last.needs) == 8
    assert main(["analyse", "unknowns", str(tmp_path), "--label", "all"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for method in ("gmvae", "crosr"):
        for rule in ("nc_distance", "nc_uncertainty" if method == "gmvae" else "crosr"):
            assert f"F1 {method}-{keep} {rule}" in lines[0]
    assert len(lines) == 1 + 7  # digits with four known classes of ten: no to six unknown ones
