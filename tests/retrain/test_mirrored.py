"""A recipe that asks for mirror images: evaluation, model folder, predictions and ONNX all look at them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nas_osr import load
from nas_osr.data.batches import to_float
from nas_osr.data.sources.digits import Digits
from nas_osr.deploy.onnx_graph import make_graph, open_session, run_graph
from nas_osr.errors import UserError
from nas_osr.retrain.evaluate import run_evaluate
from nas_osr.retrain.model_reading import open_model
from nas_osr.retrain.reopen import reopen
from nas_osr.retrain.retrain_request import EvaluateRequest, ReopenOptions, RetrainRequest
from nas_osr.retrain.run import run_retrain
from nas_osr.runs.run_folder import RunFolder

TINY: dict[str, Any] = {
    "protocol": "digits", "preset": "tiny", "limit_per_class": 20, "epochs": 2, "batch_size": 32, "device": "cpu",
    "threads": 1, "bootstrap": 0, "quiet": True, "objective": "cross_entropy", "network": "plain:width=4",
}  # fmt: skip
CPU: dict[str, Any] = {"device": "cpu", "threads": 1}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of recipe `strong` on images whose mirror images show the same, as far as it knows."""
    out = tmp_path_factory.mktemp("mirrored") / "run"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Digits, "mirrors", True)
        run_retrain(RetrainRequest(**TINY, recipe="strong", out=str(out)), ["nas-osr"])
    return out / "split-0"


@pytest.fixture
def part(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it."""
    monkeypatch.setattr(Digits, "mirrors", True)
    shutil.copytree(finished, tmp_path / "split-0")
    return tmp_path / "split-0"


def test_metrics_are_of_the_means(part: Path) -> None:
    """Against the network's weights, asked twice by hand."""
    assert json.loads((part / "metrics.json").read_text())["mirrored"]
    opened = reopen(RunFolder.open(part), ReopenOptions(**CPU))
    images = to_float(opened.data.test().images)
    objective, encoder = opened.learner.objective, opened.learner.encoder
    with torch.inference_mode():
        seen, mirrored = (objective(encoder, view).logits for view in (images, images.flip(3)))
    table = np.genfromtxt(part / "predictions.csv", delimiter=",", names=True)
    logits = np.stack([table[f"logit_{label}"] for label in range(seen.shape[1])], axis=1)
    np.testing.assert_allclose(logits, (seen + mirrored).numpy() / 2, rtol=1e-5, atol=1e-5)
    assert (seen - mirrored).abs().max() > 1e-3


def test_evaluating_again_follows_the_run_unless_told_otherwise(part: Path) -> None:
    before = (part / "metrics.json").read_bytes()
    for asked in ({}, {"mirrored": True}):
        [result] = run_evaluate(EvaluateRequest(run=str(part), **CPU, bootstrap=0, **asked))
        assert result["label"] == "" and (part / "metrics.json").read_bytes() == before
    [alone] = run_evaluate(EvaluateRequest(run=str(part), **CPU, bootstrap=0, one_sided=True))
    assert alone["label"] == "one_sided" and not alone["mirrored"] and alone["threshold"] != result["threshold"]
    assert (part / "metrics.json").read_bytes() == before
    with pytest.raises(UserError, match="exclude each other"):
        run_evaluate(EvaluateRequest(run=str(part), one_sided=True, mirrored=True))


def test_the_model_folder_keeps_it(part: Path) -> None:
    """Predictions and ONNX say the same as the evaluation, and the model keeps it without the run."""
    model = load(part / "model", device="cpu")
    images = reopen(RunFolder.open(part), ReopenOptions(**CPU)).data.test().images[:40]
    answers = model.ask(images)
    table = np.genfromtxt(part / "predictions.csv", delimiter=",", names=True)
    np.testing.assert_allclose(answers.knownness, table["knownness"][:40], rtol=1e-4, atol=1e-4)
    graph = make_graph(open_model(part))
    found = run_graph(open_session(graph.SerializeToString()), images.numpy())
    np.testing.assert_allclose(found["knownness"], answers.knownness, rtol=1e-3, atol=1e-3)
    description = json.loads((part / "model" / "model.json").read_text())
    assert description["mirrored"] is True
    for wrong in ("yes", 1):
        (part / "model" / "model.json").write_text(json.dumps({**description, "mirrored": wrong}))
        with pytest.raises(UserError, match="mirrored: expected true or false"):
            open_model(part)
    del description["mirrored"]  # as earlier versions left it
    (part / "model" / "model.json").write_text(json.dumps(description))
    assert not open_model(part).learner.mirrored


def test_digits_are_not_mirrored(tmp_path: Path) -> None:
    run_retrain(RetrainRequest(**{**TINY, "epochs": 1}, recipe="strong", out=str(tmp_path / "run")), ["nas-osr"])
    part = tmp_path / "run" / "split-0"
    assert json.loads((part / "metrics.json").read_text())["mirrored"] is False
    assert not open_model(part).learner.mirrored
