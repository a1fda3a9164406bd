"""`nas-osr analyse KIND` on two splits of digits: tables, JSON, files left behind, plots, refusals."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nas_osr.cli.main import main
from nas_osr.objectives.parts.pooling import pool
from nas_osr.retrain.analysis.base import open_runs
from nas_osr.retrain.analysis.frozen_network import known_test_images
from nas_osr.retrain.analysis.saliency import Saliency
from nas_osr.retrain.reopen import reopen
from nas_osr.retrain.retrain_request import ReopenOptions, RetrainRequest
from nas_osr.retrain.run import run_retrain
from nas_osr.runs.names import clear_run_folder
from nas_osr.runs.run_folder import RunFolder

NETWORK = ["--device", "cpu", "--threads", "1"]


@pytest.fixture(scope="module")
def retrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("analysis") / "run"
    config = RetrainRequest(
        architecture="random:0", protocol="digits", preset="tiny", channels=16, limit_per_class=40, epochs=2,
        batch_size=32, objective="cross_entropy", rule="mls", splits="0-1", device="cpu", threads=1, bootstrap=0,
        quiet=True, out=str(out),
    )  # fmt: skip
    run_retrain(config, ["nas-osr", "retrain"])
    return out


@pytest.fixture
def analyse(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run `nas-osr analyse ...`; what it prints."""

    def run(*arguments: object) -> str:
        capsys.readouterr()
        code = main(["analyse", *map(str, arguments)])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return captured.out

    return run


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run `nas-osr analyse ...`, which must fail with one line; that line."""

    def run(*arguments: object) -> str:
        capsys.readouterr()
        assert main(["analyse", *map(str, arguments)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and error.startswith("nas-osr: error: ")
        return error

    return run


def left_behind(part: Path, kind: str) -> dict[str, Any]:
    return json.loads((part / f"analysis-{kind}.json").read_text())


def test_confusion(retrained: Path, analyse: Any) -> None:
    results = json.loads(analyse("confusion", retrained, "--json"))
    assert list(results) == ["split-0", "split-1"]
    metrics = json.loads((retrained / "split-0" / "metrics.json").read_text())
    rows = results["split-0"]["unknown"]
    assert all(sum(row["shares"]) + row["rejected"] == pytest.approx(1) for row in rows.values())
    images = [row["images"] for row in rows.values()]
    rejected = np.average([row["rejected"] for row in rows.values()], weights=images)
    assert rejected == pytest.approx(metrics["metrics"]["rejected_unknown"])
    names = ["+".join(names) for names in metrics["protocol"]["known"]]
    assert results["split-0"]["known"] == names
    text = analyse("confusion", retrained / "split-0", "--closed")
    assert text.splitlines()[0].split() == ["unknown", "class", "images", *names, "mistaken", "for"]
    assert len(text.splitlines()) == 1 + len(rows)
    assert analyse("confusion", retrained).splitlines()[0] == "split-0"
    assert left_behind(retrained / "split-0", "confusion")["options"] == {"closed": False, "label": ""}


def test_unknowns(retrained: Path, analyse: Any, tmp_path: Path) -> None:
    curves = json.loads(analyse("unknowns", retrained, "--json"))
    for name, curve in curves.items():
        assert curve == json.loads((retrained / name / "metrics.json").read_text())["openness_f1_curve"]
    plot = tmp_path / "curve.svg"
    lines = analyse("unknowns", retrained, "--plot", plot).splitlines()
    assert len(lines) == 1 + 5 and "F1 split-1" in lines[0] and lines[-1].startswith("4 ")
    mean = np.mean([curve[4]["macro_f1"] for curve in curves.values()])
    assert f"{mean:.4f} ±" in lines[-1]
    assert "<svg" in plot.read_text()[:1000]


def test_probe(retrained: Path, analyse: Any) -> None:
    results = json.loads(analyse("probe", retrained / "split-1", "--json", *NETWORK))
    figures = results["split-1"]
    assert 0.5 < figures["top1"] <= figures["top5"] <= 1.0 and figures["train_top1"] > 0.9
    metrics = json.loads((retrained / "split-1" / "metrics.json").read_text())
    assert figures["network"] == metrics["metrics"]["closed_set_accuracy"]
    kept = left_behind(retrained / "split-1", "probe")
    assert kept["options"]["inverse_penalty"] == 1.0 and kept["top1"] == figures["top1"]
    assert "top1" in analyse("probe", retrained, *NETWORK)


def test_saliency(retrained: Path, analyse: Any, tmp_path: Path) -> None:
    part = retrained / "split-0"
    options = ["--batch_size", "500", "--lowest", "1e-6", "--highest", "1e-5", "--points", "3", *NETWORK]
    plot, pictures = tmp_path / "s.png", tmp_path / "maps.png"
    text = analyse("saliency", part, *options, "--json", "--plot", plot, "--pictures", pictures)
    figures = json.loads(text)["split-0"]
    assert analyse("saliency", part, *options, "--json") == text
    assert plot.read_bytes()[:4] == pictures.read_bytes()[:4] == b"\x89PNG"

    # the whole validation part is one batch: the same by hand
    opened = reopen(RunFolder.open(part), ReopenOptions(device="cpu", threads=1))
    data = opened.data.validation
    assert figures["images"] == figures["maps"] == len(data)
    features = opened.learner.encoder(data.images.float() / 255)
    logits = opened.learner.objective.classifier(pool(features))
    loss = torch.nn.functional.cross_entropy(logits, data.labels)
    late = features.intermediate[1]  # the last of 4x4 positions
    (gradient,) = torch.autograd.grad(loss, late)
    maps = (gradient.relu() * late).sum(1, keepdim=True).relu()
    maps = torch.nn.functional.interpolate(maps, data.images.shape[2:], mode="bilinear")
    assert figures["thresholds"] == pytest.approx([1e-6, 10**-5.5, 1e-5])
    expected = [float((maps > threshold).double().mean()) for threshold in figures["thresholds"]]
    assert figures["area"] == pytest.approx(expected, abs=2e-3)
    assert 1 >= expected[0] > expected[2] > 0

    random = torch.random.get_rng_state()
    assert Saliency(str(part)).activated_areas(opened)[0]["images"] == len(data)
    assert torch.equal(torch.random.get_rng_state(), random)

    test = json.loads(analyse("saliency", part, "--part", "test", "--limit", "50", "--batch_size", "20", "--json"))
    assert test["split-0"]["images"] == 40
    analyse("saliency", retrained, *options, "--pictures", pictures)
    assert (tmp_path / "maps-split-1.png").exists()


def test_dimension(retrained: Path, analyse: Any) -> None:
    pytest.importorskip("skdim", reason="scikit-dimension is not installed: pip install 'nas-osr[analysis]'")
    part = retrained / "split-0"
    text = analyse("dimension", part, "--estimators", "TwoNN,lPCA", "--json", *NETWORK)
    figures = json.loads(text)["split-0"]
    assert set(figures) == {"pooled", "embedding"} and set(figures["pooled"]) == {"TwoNN", "lPCA"}
    assert figures["pooled"] == figures["embedding"]  # of cross-entropy they are the same
    found = figures["pooled"]["TwoNN"]
    assert 1 < found["all"] < 40 and found["class_mean"] == pytest.approx(np.mean(list(found["classes"].values())))
    assert len(found["classes"]) == 6 and left_behind(part, "dimension")["options"]["limit"] == 5000
    sampled = json.loads(analyse("dimension", part, "--limit", "20", "--json", *NETWORK))["split-0"]
    assert sampled["pooled"]["TwoNN"]["all"] != found["all"]
    assert "embedding MLE class_mean" in analyse("dimension", retrained, *NETWORK)


def test_corruption(retrained: Path, analyse: Any, tmp_path: Path) -> None:
    pytest.importorskip("imagecorruptions", reason="imagecorruptions-imaug is not installed: the extra `analysis`")
    part = retrained / "split-0"
    options = ["--kinds", "gaussian_noise,contrast", "--severities", "1,5", *NETWORK]
    figures = json.loads(analyse("corruption", part, *options, "--unknown", "--json"))["split-0"]
    metrics = json.loads((part / "metrics.json").read_text())
    assert figures["clean_accuracy"] == metrics["metrics"]["closed_set_accuracy"]
    assert figures["clean_auroc"] == metrics["metrics"]["auroc"]
    assert figures["images"] == metrics["test_images"]
    assert figures["mean_accuracy"] == pytest.approx(np.mean(list(figures["accuracy"].values())))
    assert figures["accuracy"]["contrast"][1] < figures["clean_accuracy"]  # little is left to see

    plot = tmp_path / "c.pdf"
    some = json.loads(analyse("corruption", part, *options, "--limit", "30", "--json", "--plot", plot))["split-0"]
    assert some["images"] == {"known": 30, "unknown": 0} and "auroc" not in some
    assert plot.read_bytes()[:4] == b"%PDF"
    table = analyse("corruption", part, *options, "--limit", "30").splitlines()
    assert table[1].split() == ["metric", "severity", "1", "severity", "5", "mean"]
    assert left_behind(part, "corruption")["options"]["limit"] == 30
    assert "split-1" in analyse("corruption", retrained, *options, "--limit", "10", "--unknown")


def test_known_test_images_leave_the_unknown_ones_out(retrained: Path) -> None:
    opened = reopen(open_runs(str(retrained))["split-0"], ReopenOptions(device="cpu", threads=1))
    metrics = json.loads((retrained / "split-0" / "metrics.json").read_text())
    known = known_test_images(opened)
    assert len(known) == metrics["test_images"]["known"] and int(known.labels.max()) == 5


def test_another_result_of_evaluate_is_read(retrained: Path, analyse: Any, refused: Any) -> None:
    part = retrained / "split-1"
    assert "no such file" in refused("confusion", part, "--label", "msp").lower()
    assert main(["evaluate", str(part), "--rule", "msp", "--bootstrap", "0", *NETWORK]) == 0
    assert analyse("confusion", part, "--label", "msp", "--closed") == analyse("confusion", part, "--closed")
    curve = json.loads((part / "metrics-msp.json").read_text())["openness_f1_curve"]
    assert json.loads(analyse("unknowns", part, "--label", "msp", "--json"))["split-1"] == curve


def test_the_analysis_of_the_docs_works(
    retrained: Path, analyse: Any, refused: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "how-to" / "own-analysis.md").read_text()
    [code] = [block for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL) if "class Rejected" in block]
    assert "there is no module my_analyses" in refused("my_analyses.Rejected", retrained)
    (tmp_path / "my_analyses.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        results = json.loads(analyse("my_analyses.Rejected", retrained, "--json"))
        metrics = json.loads((retrained / "split-1" / "metrics.json").read_text())
        assert set(results["split-1"]) == {name for names in metrics["protocol"]["known"] for name in names}
        kept = left_behind(retrained / "split-1", "rejected")
        assert kept == {**results["split-1"], "options": {"least": 0.0}}
        table = analyse("my_analyses.Rejected", retrained).splitlines()
        assert table[0].split() == ["metric", "split-0", "split-1", "mean"]
        assert analyse("my_analyses.Rejected", retrained / "split-0", "--least", 1.1).split() == ["metric", "split-0"]
        assert "no class RunFolders derived from Analysis" in refused("my_analyses.RunFolders", retrained)
    finally:
        sys.modules.pop("my_analyses", None)
    assert "choose from confusion, unknowns" in refused("runs/x.y", retrained)


@pytest.mark.parametrize(
    "kind", ["confusion", "unknowns", "probe", "dimension", "saliency", "corruption", "counterfactuals"]
)
def test_other_folders_are_refused(kind: str, tmp_path: Path, refused: Any) -> None:
    if kind in ("dimension", "corruption"):
        pytest.importorskip({"dimension": "skdim", "corruption": "imagecorruptions"}[kind], reason="the extra analysis")
    assert "no such run folder" in refused(kind, tmp_path / "nowhere")
    assert "not a run folder" in refused(kind, tmp_path)
    with RunFolder.create(tmp_path / "search") as run:
        run.provenance(["nas-osr", "search"], {"strategy": "pas"})
        run.finish()
    assert "needs a finished retraining" in refused(kind, tmp_path / "search")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["corruption", "--kinds", "rain"], "rain"),
        (["corruption", "--severities", "0-5"], "severities"),
        (["corruption", "--plot", "x.bmp"], ".png or .svg or .pdf"),
        (["unknowns", "--plot", "nowhere/x.png"], "its folder does not exist"),
        (["saliency", "--part", "train"], "part"),
        (["saliency", "--weights", "cam"], "weights"),
        (["saliency", "--lowest", "1"], "lowest"),
        (["saliency", "--scales", "5"], "scales must lie in [-1, 2], got 5"),
        (["saliency", "--scales", "1,2"], "scale 2 has 2x2 positions, and a saliency needs 4x4"),
        (["saliency", "--limit", "0"], "limit"),
        (["saliency", "--pictures", "x.bmp"], ".png"),
        (["probe", "--inverse_penalty", "0"], "inverse_penalty"),
        (["dimension", "--estimators", "MST"], "MST"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_strange_options_are_refused(retrained: Path, refused: Any, arguments: list[str], message: str) -> None:
    assert message in refused(arguments[0], retrained / "split-0", *arguments[1:])


def test_several_methods_side_by_side(retrained: Path, analyse: Any, refused: Any, tmp_path: Path) -> None:
    """Of one folder with two methods, one of them of two splits; a search and an unfinished run lie beside them."""
    sweep = tmp_path / "sweep"
    shutil.copytree(retrained, sweep / "both")
    shutil.copytree(retrained / "split-1", sweep / "alone")
    shutil.copytree(retrained, sweep / "later")
    (sweep / "later" / "split-1" / "predictions.csv").unlink()
    with RunFolder.create(sweep / "search") as run:
        run.provenance(["nas-osr", "search"], {"strategy": "pas"})
    assert list(open_runs(str(sweep))) == ["alone", "both/split-0", "both/split-1"]

    plot = tmp_path / "curve.svg"
    unknowns = analyse("unknowns", sweep, "--plot", plot).splitlines()
    assert re.split(r"  +", unknowns[0])[-2:] == ["F1 alone", "F1 both"] and plot.exists()
    curves = [json.loads((retrained / f"split-{k}" / "metrics.json").read_text())["openness_f1_curve"] for k in (0, 1)]
    last = [curve[4]["macro_f1"] for curve in curves]
    assert f"{np.mean(last):.4f} ± {np.std(last, ddof=1):.4f}" in unknowns[-1] and f"{last[1]:.4f}" in unknowns[-1]

    found = json.loads(analyse("probe", sweep, "--json", *NETWORK))
    table = analyse("probe", sweep, *NETWORK).splitlines()
    assert table[0].split() == ["metric", "alone", "both"]
    tops = [found[name]["top1"] for name in ("both/split-0", "both/split-1")]
    assert f"{found['alone']['top1']:.4f}" in table[1] and f"{np.mean(tops):.4f} ±" in table[1]

    pictures = tmp_path / "maps.png"
    analyse("saliency", sweep, "--limit", "20", "--batch_size", "20", "--pictures", pictures, *NETWORK)
    assert {path.name for path in tmp_path.glob("maps-*")} == {
        "maps-alone.png", "maps-both-split-0.png", "maps-both-split-1.png"
    }  # fmt: skip
    for name in ("alone", "both"):
        shutil.rmtree(sweep / name)
    assert "no predictions.csv in any of its runs" in refused("probe", sweep)


def test_overwriting_a_run_takes_its_analyses_away(retrained: Path, analyse: Any, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(retrained, copy)
    analyse("confusion", copy)
    clear_run_folder(copy)
    assert not list(copy.rglob("analysis-*"))
