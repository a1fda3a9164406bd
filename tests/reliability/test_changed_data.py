"""Images that change between a run and its resumption, evaluation or comparison are noticed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nas_osr.errors import UserError
from nas_osr.retrain.comparison import find_rows
from nas_osr.retrain.evaluate import run_evaluate
from nas_osr.retrain.retrain_request import EvaluateRequest, RetrainRequest
from nas_osr.retrain.run import run_retrain
from nas_osr.runs.run_folder import RunFolder

SETTINGS: dict[str, Any] = {
    "architecture": "random:0", "protocol": "folder", "known": ["ant", "bee"], "preset": "tiny", "channels": 16,
    "objective": "cross_entropy", "epochs": 1, "batch_size": 8, "device": "cpu", "threads": 1, "bootstrap": 0,
    "quiet": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two known classes and an unknown one, of noise."""
    root, generator = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("ant", "bee", "cat"):
            (root / part / name).mkdir(parents=True)
            for index in range(6):
                pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def finished(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("retrain") / "run"
    run_retrain(RetrainRequest(**SETTINGS, data_dir=str(images), out=str(out)), ["nas-osr", "retrain"])
    return out


def change(images: Path, to: Path, file: str) -> str:
    """A copy of the images in which one pixel of one file is another; its path."""
    shutil.copytree(images, to)
    pixels = np.array(Image.open(to / file))
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(to / file)
    return str(to)


def test_changed_training_images_are_evaluated_by_the_model(
    images: Path, finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = (finished / "split-0" / "metrics.json").read_bytes()
    same = shutil.copytree(images, tmp_path / "same")
    request = {"run": str(finished), "device": "cpu", "threads": 1, "bootstrap": 0}
    run_evaluate(EvaluateRequest(**request, data_dir=str(same)))
    assert (finished / "split-0" / "metrics.json").read_bytes() == before
    changed = change(images, tmp_path / "changed", "train/ant/0.png")
    assert "have changed" not in caplog.text
    run_evaluate(EvaluateRequest(**request, data_dir=changed))
    assert "have changed since it was trained: rule mls and its threshold are those of its model" in caplog.text
    assert (finished / "split-0" / "metrics.json").read_bytes() == before
    for other in ({"rule": "msp"}, {"rule_config": {"acceptance": 0.5}}, {"mirrored": True}):
        with pytest.raises(UserError, match="another rule, or mirrored, needs the same ones"):
            run_evaluate(EvaluateRequest(**request, **other, data_dir=changed))
    old = Path(shutil.copytree(finished, tmp_path / "old"))
    shutil.rmtree(old / "split-0" / "model")
    with pytest.raises(UserError, match="it has no model/ that keeps the rule"):
        run_evaluate(EvaluateRequest(**{**request, "run": str(old)}, data_dir=changed))


def test_what_a_rule_has_told_the_objective_is_the_models_as_well(images: Path, tmp_path: Path) -> None:
    """CAP's first stage decodes the class means of u, which changed training images cannot give again."""
    settings = {**SETTINGS, "objective": "vae_contrastive", "rule": "cap", "out": str(tmp_path / "run")}
    run_retrain(RetrainRequest(**settings, data_dir=str(images)), ["nas-osr", "retrain"])
    file = tmp_path / "run" / "split-0" / "metrics.json"
    before = json.loads(file.read_text())
    changed = change(images, tmp_path / "changed", "train/ant/0.png")
    request = {"run": settings["out"], "device": "cpu", "threads": 1, "bootstrap": 0}
    run_evaluate(EvaluateRequest(**request, data_dir=changed))
    assert json.loads(file.read_text()) == before


def test_a_changed_training_image_stops_resumption(images: Path, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    for run in (RunFolder.open(out), RunFolder.open(out / "split-0")):
        run.write_json("provenance.json", {**run.read_provenance(), "finished": None})
    changed = change(images, tmp_path / "changed", "train/bee/3.png")
    settings = {**SETTINGS, "out": str(out), "resume": "auto"}
    with pytest.raises(UserError, match="the training images have changed since the run began"):
        run_retrain(RetrainRequest(**settings, data_dir=changed), ["nas-osr", "retrain"])
    run_retrain(RetrainRequest(**settings, data_dir=str(images)), ["nas-osr", "retrain"])


def test_a_changed_test_image_stops_comparison(images: Path, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    changed = change(images, tmp_path / "changed", "test/cat/2.png")
    run_retrain(RetrainRequest(**SETTINGS, data_dir=changed, out=str(out)), ["nas-osr", "retrain"])
    assert len(find_rows([out])) == len(find_rows([finished])) == 1
    with pytest.raises(UserError, match="test images differ"):
        find_rows([finished, out])
