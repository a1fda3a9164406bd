"""Model folders of runs that have none: the same bytes as the run would have left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from nas_osr.cli.main import main
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.retrain.run import run_retrain

TINY: dict[str, Any] = {
    "architecture": "random:0", "protocol": "digits", "preset": "tiny", "channels": 16, "limit_per_class": 10,
    "epochs": 1, "batch_size": 16, "device": "cpu", "threads": 1, "bootstrap": 0, "quiet": True, "splits": "0-1",
}  # fmt: skip


def old_run(out: Path, objective: str) -> dict[str, dict[str, bytes]]:
    """A retraining without its models, and what was in them."""
    run_retrain(RetrainRequest(**TINY, objective=objective, out=str(out)), ["nas-osr", "retrain"])
    models = {}
    for part in ("split-0", "split-1"):
        models[part] = {path.name: path.read_bytes() for path in (out / part / "model").iterdir()}
        shutil.rmtree(out / part / "model")
    return models


def test_a_rule_that_learns_is_fitted_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    models = old_run(tmp_path / "run", "cac")
    assert main(["export", str(tmp_path / "run"), "--format", "safetensors", "--device", "cpu"]) == 0
    assert "rule cac is fitted on the run's training images" in caplog.text
    assert capsys.readouterr().out.count("wrote ") == 4
    for part, files in models.items():
        assert {path.name: path.read_bytes() for path in (tmp_path / "run" / part / "model").iterdir()} == files
    # what is there is copied, as is a model folder
    assert main(["export", str(tmp_path / "run"), "--format", "safetensors", "--out", str(tmp_path / "all")]) == 0
    model = str(tmp_path / "all" / "split-1")
    assert main(["export", model, "--format", "safetensors", "--out", str(tmp_path / "one")]) == 0
    for name, content in models["split-1"].items():
        assert (tmp_path / "one" / name).read_bytes() == content


def test_a_rule_that_learns_nothing_needs_no_images(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = old_run(tmp_path / "run", "cross_entropy")
    part = tmp_path / "run" / "split-0"
    monkeypatch.setattr("nas_osr.data.sources.digits.Digits.read", None)  # images that are gone
    assert main(["export", str(part), "--format", "json,safetensors", "--out", str(tmp_path / "new")]) == 0
    assert "needs no images: its threshold is in metrics.json" in caplog.text
    assert (tmp_path / "new" / "architecture.json").exists()
    assert (tmp_path / "new" / "model.safetensors").read_bytes() == models["split-0"]["model.safetensors"]
    before, after = json.loads(models["split-0"]["model.json"]), json.loads((tmp_path / "new/model.json").read_text())
    assert before["about"].pop("training_images") and before == after


def test_what_cannot_be_converted_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old_run(tmp_path / "run", "cross_entropy")
    part = tmp_path / "run" / "split-0"
    provenance = json.loads((part / "provenance.json").read_text())
    (part / "provenance.json").write_text(json.dumps({**provenance, "finished": None}))
    assert main(["export", str(part), "--format", "safetensors"]) == 2
    assert "not finished: go on with nas-osr retrain --resume auto" in capsys.readouterr().err
    assert main(["export", str(tmp_path), "--format", "safetensors"]) == 2
    assert "not a run folder" in capsys.readouterr().err
