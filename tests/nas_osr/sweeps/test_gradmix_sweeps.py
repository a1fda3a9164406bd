"""The shipped sweeps of GradMix, each from its first run to its last on a few digits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.nas_osr.sweeps.shipped import DISCRETE, run_shipped


def test_the_layers_of_the_ablation_are_five_different_ones(tmp_path: Path) -> None:
    folders = run_shipped("gradmix-layers", tmp_path, **DISCRETE)
    losses = [(folder / "split-0" / "history.jsonl").read_text().splitlines() for folder in folders.values()]
    last = [json.loads(lines[-1])["losses"]["mix"] for lines in losses]
    assert len(folders) == len(set(last)) == 5


def test_two_stages(tmp_path: Path) -> None:
    folders = run_shipped("gradmix-table2", tmp_path, "svhn", **DISCRETE)
    stages = [json.loads((folders[name] / "split-0" / "history.jsonl").read_text()) for name in ("first-svhn", "svhn")]
    assert "supcon" not in stages[0]["losses"] and "supcon" in stages[1]["losses"]
    assert "init_sha256" in json.loads((folders["svhn"] / "split-0" / "provenance.json").read_text())


@pytest.mark.slow
def test_with_and_without(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("imagecorruptions", reason="imagecorruptions-imaug is not installed: the extra `analysis`")
    pytest.importorskip("skdim", reason="scikit-dimension is not installed: the extra `analysis`")
    run_shipped("gradmix-robustness", tmp_path, batch_size=16, **DISCRETE)
    headings = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("metric ")]
    assert headings[-3:] == [["metric", "supcon", "with", "without"]] * 3  # one table for each analysis
    for name in ("supcon", "without", "with"):
        left = {path.name for path in (tmp_path / name / "split-0").glob("analysis-*.json")}
        assert left == {"analysis-corruption.json", "analysis-dimension.json", "analysis-saliency.json"}


@pytest.mark.slow
def test_probes_of_both_self_supervised_methods(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_shipped("gradmix-probes", tmp_path, **DISCRETE)
    [heading] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("metric") and "moco" in line]
    mixes = ("cutmix", "gradmix", "none")
    assert heading.split()[1:] == [f"{method}-{mix}" for method in ("moco", "simclr") for mix in mixes]


@pytest.mark.slow
def test_the_ablation(tmp_path: Path) -> None:
    pytest.importorskip("skdim", reason="scikit-dimension is not installed: the extra `analysis`")
    folders = run_shipped("gradmix-ablation", tmp_path, batch_size=16, **DISCRETE)
    histories = {name: folder / "split-0" / "history.jsonl" for name, folder in folders.items()}
    mixed = [name for name, file in histories.items() if file.exists() and '"mix"' in file.read_text()]
    assert mixed == ["cutmix", "cutmix-alpha-1", "mixup", "mixup-alpha-1", "gradmix-gradcam", "gradmix-layercam"]
