"""The shipped sweeps of CAC, GMVAE, NAS-OSR and Confident, each from its first run to its last on a few digits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nas_osr.cli.main import main
from nas_osr.cli.sweep import option_names
from nas_osr.sweeps.sweep_file import read_sweep
from tests.nas_osr.sweeps.shipped import DISCRETE, run_shipped


def read_result(folder: Path, label: str = "") -> dict[str, Any]:
    return json.loads((folder / "split-0" / f"metrics{label}.json").read_text())


def read_losses(folder: Path) -> dict[str, float]:
    return json.loads((folder / "split-0" / "history.jsonl").read_text())["losses"]


def test_cac_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = run_shipped("cac-tables", tmp_path, "-mnist", **DISCRETE)
    assert {name: read_result(folder)["rule"] for name, folder in folders.items()} == {
        "cac-mnist": "cac",
        "cross-entropy-mnist": "msp",
    }
    assert all(read_result(folder)["protocol"]["family"] == "neal" for folder in folders.values())
    assert main(["compare", str(tmp_path)]) == 0  # AUROC and closed-set accuracy beside the published
    assert len([line for line in capsys.readouterr().out.splitlines() if "random seed 0" in line]) == 2


@pytest.mark.slow
def test_cac_ablation_and_sensitivity(tmp_path: Path) -> None:
    folders = run_shipped("cac-ablation", tmp_path / "ablation", "-tinyimagenet", **DISCRETE)
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
    grid = run_shipped("cac-sensitivity", tmp_path / "grid", "cifar10-alpha-1-", **DISCRETE)
    assert len(grid) == 4
    weighted = [name for name, folder in grid.items() if "anchor" in read_losses(folder)]
    assert weighted == [f"cifar10-alpha-1-lambda-{weight}" for weight in ("0.01", "0.1", "1")]


@pytest.mark.slow
def test_nas_osr_tables(tmp_path: Path) -> None:
    folders = run_shipped("nas-osr-tables", tmp_path, r"cifar\+10", strategy_config={"warmup_epochs": 0})
    softmax, nas_osr = folders["softmax-cifar+10"], folders["nas-osr-cifar+10"]
    assert (read_result(nas_osr)["rule"], read_result(softmax)["rule"]) == ("cap", "msp")
    assert read_result(softmax, "-openmax")["rule"] == "openmax"
    found = [(folder / "split-0" / "architecture.json").read_bytes() for folder in (softmax, nas_osr)]
    assert found[0] == found[1]
    assert read_result(softmax)["protocol"]["family"] == "nas_osr"


def test_the_four_methods_of_gmvae_are_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep = "mnist-merged"
    run_shipped("gmvae-experiments", tmp_path, keep, **DISCRETE)
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


@pytest.mark.slow
def test_confidence(tmp_path: Path) -> None:
    """All but the row with given outliers, which are SVHN's images; tests of the objective give it others."""
    noise = np.random.default_rng(0)
    (tmp_path / "others").mkdir()
    for number in range(20):
        pixels = noise.integers(0, 256, (32, 32), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "others" / f"{number}.png")
    folders = run_shipped("confidence", tmp_path / "sweep", "^cifar10-(cross-entropy|gan|pretrained-gan)$", **DISCRETE)
    terms = {name: set(read_losses(folder)) for name, folder in folders.items()}
    assert terms["cifar10-cross-entropy"] == {"ce"} and terms["cifar10-pretrained-gan"] == {"ce", "kl"}
    assert {"ce", "kl", "discriminator_fake", "generator_adversarial"} <= terms["cifar10-gan"]
    for folder in folders.values():
        assert main(["evaluate", str(folder), "--unknown", str(tmp_path / "others")]) == 0
        assert read_result(folder, "-others")["rule"] == "msp"
