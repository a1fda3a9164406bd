"""`nas-osr plot` and `analyse` on a real training on digits: every kind, from the files that the commands leave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest

from nas_osr.cli.main import main
from nas_osr.evaluation.user_arrays import read_arrays
from nas_osr.reports import FIGURES
from nas_osr.reports.thumbnails import plot_mistakes, plot_saliency
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.retrain.run import run_retrain

from .conftest import subcluster_records, write_history, write_method

SHIPPED = Path(__file__).parents[3] / "docs" / "results" / "tables" / "tiny-digits.jsonl.xz"
NETWORK = ["--device", "cpu", "--threads", "1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One split of digits with a decoder, judged by a rule that tries thresholds as well, and analysed."""
    out = tmp_path_factory.mktemp("plots") / "run"
    config = RetrainRequest(
        architecture="random:0", protocol="digits", preset="tiny", channels=16, limit_per_class=30, epochs=2,
        batch_size=32, device="cpu", threads=1, bootstrap=0, quiet=True, out=str(out),
    )  # fmt: skip
    run_retrain(config, ["nas-osr", "retrain"])
    for arguments in (
        ["evaluate", out, "--rule", "nc_distance", "--embeddings", "--bootstrap", "0"],
        ["analyse", "counterfactuals", out, "--images", "4"],
        ["analyse", "saliency", out, "--batch_size", "20", "--pictures", out.parent / "maps.svg"],
    ):
        assert main([*map(str, arguments), *NETWORK]) == 0
    return out / "split-0"


@pytest.fixture
def plot(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    def run(kind: str, *arguments: object) -> str:
        code = main(["plot", kind, *map(str, arguments), "--out", str(tmp_path / "out.svg")])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        assert captured.out == f"wrote {tmp_path / 'out.svg'}\n"
        return (tmp_path / "out.svg").read_text()

    return run


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    def run(*arguments: object) -> str:
        assert main(["plot", *map(str, arguments), "--out", str(tmp_path / "out.svg")]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and not (tmp_path / "out.svg").exists()
        return error

    return run


def test_every_kind_is_drawn(trained: Path, plot: Any, tmp_path: Path) -> None:
    for weight in (0.1, 1.0):
        write_method(tmp_path / "sweep" / f"w{weight}", objective_config={"anchor_weight": weight, "alpha": 10.0})
    write_history(tmp_path / "sub", subcluster_records())
    write_history(tmp_path / "tried", [{"phase": "trial", "f1": 0.5 + n, "parameters": 1 + n} for n in range(2)])
    corruption = {"severities": [1, 5], "accuracy": {"fog": [0.5, 0.25], "snow": [0.7, 0.35]}, "clean_accuracy": 0.9}
    (trained / "analysis-corruption.json").write_text(json.dumps(corruption))
    runs = {"sensitivity": tmp_path / "sweep", "subclusters": tmp_path / "sub", "trials": tmp_path / "tried"}
    runs |= dict.fromkeys(("spread", "criteria", "regret"), SHIPPED)
    more = {"tau": ["--label", "nc_distance"], "embedding": ["--method", "pca"], "confusion": ["--accepted"]}
    for kind in FIGURES:
        assert plot(kind, runs.get(kind, trained), *more.get(kind, [])).count("<g id=") > 5, kind
    assert "severity (0: clean)" in plot("corruption", trained)
    assert "a method  AUROC" in plot("roc", trained, "--name", "a method", "--columns", 2)


def test_pictures_say_class_and_prediction(trained: Path) -> None:
    kept = read_arrays(trained / "analysis-saliency.npz", any_names=True)
    assert kept["images"].shape[1:] == (1, 1, 32, 32) and kept["images"].dtype == np.uint8
    known = json.loads((trained / "metrics.json").read_text())["protocol"]["known"]
    classes = {name for names in known for name in names}
    assert set(kept["true"].tolist()) <= classes and set(kept["given"].tolist()) <= classes | {"unknown"}
    titles = [axes.get_title(loc="left") for axes in plot_saliency(trained).axes]
    assert f"{kept['true'][0]} \u2192 {kept['given'][0]}" in titles
    assert "<image" in (trained.parents[1] / "maps.svg").read_text()


def test_mistakes_are_the_images_that_were_judged(trained: Path, refused: Any) -> None:
    figure = plot_mistakes(trained, count=3)
    shown = [axes.get_title(loc="left").split("\n\u2192 ") for axes in figure.axes if axes.images]
    assert shown and all(true != given for true, given in shown)
    file = trained / "metrics.json"
    before = file.read_text()
    try:
        file.write_text(json.dumps({**json.loads(before), "data_fingerprints": {"test": "other"}}))
        assert "not those that were judged" in refused("mistakes", trained)
    finally:
        file.write_text(before)


def test_without_a_kind_the_kinds_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(FIGURES)


def test_strange_requests_are_one_line(trained: Path, refused: Any, tmp_path: Path) -> None:
    for arguments, message in (
        (["rok", trained], "did you mean roc?"), (["roc"], "name a run folder"),
        (["roc", trained, "--metric", "auroc"], "--metric is for other kinds; it has --label, --columns"),
        (["counterfactuals", trained, "--columns", "2"], "--columns is for other kinds; it has none"),
        (["roc", trained, "--name", "a,b"], "a name of its own for each of 1 runs"),
        (["roc", trained / "model"], "no evaluated"),
        (["area", write_method(tmp_path / "x")], "analysis-saliency.json: not there; make it first: nas-osr analyse"),
        (["mistakes", tmp_path / "x"], "shows one split and seed"),
        (["history", tmp_path / "none"], "no such run folder"),
    ):  # fmt: skip
        assert message in refused(*arguments), message


def test_a_users_own_settings_stay_as_they_are(trained: Path, plot: Any) -> None:
    before = dict(mpl.rcParams)
    plot("roc", trained)
    assert dict(mpl.rcParams) == before
