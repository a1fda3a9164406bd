"""`nas-osr analyse counterfactuals`, and what a retraining says of its decoder and threshold, on digits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nas_osr.cli.main import main
from nas_osr.retrain.model_reading import open_model
from nas_osr.retrain.reopen import reopen
from nas_osr.retrain.retrain_request import ReopenOptions, RetrainRequest
from nas_osr.retrain.run import run_retrain
from nas_osr.runs.run_folder import RunFolder

NETWORK = ["--device", "cpu", "--threads", "1"]


def retrain(out: Path, **settings: object) -> Path:
    config = RetrainRequest(
        architecture="random:0", protocol="digits", preset="tiny", channels=16, limit_per_class=60, epochs=6,
        batch_size=16, splits="0", device="cpu", threads=1, bootstrap=0, quiet=True, out=str(out), **settings,
    )  # fmt: skip
    run_retrain(config, ["nas-osr", "retrain"])
    return out / "split-0"


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return retrain(tmp_path_factory.mktemp("counterfactuals") / "run", objective="vae_contrastive")


def test_figures_and_picture(part: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "classes.png"
    arguments = ["analyse", "counterfactuals", str(part), "--json", *NETWORK]
    assert main([*arguments, "--part", "test", "--images", "4", "--pictures", str(picture)]) == 0
    figures = json.loads(capsys.readouterr().out)["split-0"]
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert figures.keys() == {"decoder_share", "own_is_best", "error_known", "error_unknown", "auroc"}

    # the model that the retraining left knows the class means: the same by hand
    model, data = open_model(part), reopen(RunFolder.open(part), ReopenOptions(device="cpu", threads=1)).data
    objective, encoder = model.learner.objective, model.learner.encoder
    assert objective.measured.all()
    test = data.test()
    known = test.labels < 6
    with torch.inference_mode():
        images = test.images.float() / 255
        drawn = objective.redraw(encoder, images)
        redrawn = objective.reconstruct(encoder, images[known])
    errors = ((drawn - images) * objective.inverse_std).square().mean(dim=(2, 3, 4)).T
    least = errors.min(dim=1).values
    assert figures["error_known"] == pytest.approx(float(least[known].mean()), rel=1e-4)
    assert figures["error_unknown"] == pytest.approx(float(least[~known].mean()), rel=1e-4)
    right = errors.argmin(dim=1) == test.labels
    assert figures["own_is_best"] == pytest.approx(float(right[known].double().mean()), abs=0.01)
    spread = (images[known] - images[known].mean(dim=0)).square().sum()
    assert figures["decoder_share"] == pytest.approx(float((redrawn - images[known]).square().sum() / spread), rel=1e-4)

    assert main(arguments) == 0
    validation = json.loads(capsys.readouterr().out)["split-0"]
    assert validation.keys() == {"decoder_share", "own_is_best", "error_known"}
    last = json.loads((part / "history.jsonl").read_text().splitlines()[-1])
    assert validation["decoder_share"] == pytest.approx(last["decoder_share"], rel=1e-5)


def test_an_objective_without_counterfactuals_and_strange_options_are_refused(
    part: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    other = retrain(tmp_path / "run", objective="cross_entropy", rule="nc_uncertainty")
    history = [json.loads(line) for line in (other / "history.jsonl").read_text().splitlines()]
    assert not any("decoder_share" in record for record in history)
    capsys.readouterr()
    for arguments, message in (
        ([str(other)], "cross_entropy decodes no counterfactuals"),
        ([str(part), "--images", "0"], "images must be greater than 0"),
        ([str(part), "--part", "train"], "part must be one of validation, test"),
        ([str(part), "--pictures", "x.bmp"], "must end in .png"),
    ):
        assert main(["analyse", "counterfactuals", *arguments, *NETWORK]) == 2
        assert message in capsys.readouterr().err

    # the rule of this run picks its threshold by the slope of F1: metrics.json has what it saw
    source = json.loads((other / "metrics.json").read_text())["threshold_source"]
    curve = source.pop("curve")
    assert source.keys() == {"picker", "tau", "scale"} and len(curve["tau"]) == len(curve["f1"]) > 3
    if source["picker"] == "derivative":
        slopes = np.diff(curve["f1"]) / np.diff(curve["tau"])
        steep = int(np.flatnonzero(slopes >= 1.5)[0])
        flat = next(i for i in range(steep + 1, len(slopes)) if slopes[i] <= 0.4)
        assert source["tau"] == curve["tau"][flat]
    caplog.clear()
    assert main(["evaluate", str(other), "--bootstrap", "0", *NETWORK]) == 0
    assert f"rule nc_uncertainty: tau {source['tau']:.3g}, by " in caplog.text
    capped = json.loads((part / "metrics.json").read_text())["threshold_source"]
    assert capped.keys() == {"picker", "acceptance", "error_threshold"} and capped["picker"] == "quantile"
