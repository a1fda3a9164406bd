"""`nas-osr export --format onnx` on a trained model, its 8 bits, and its card."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import nas_osr
from nas_osr.cli.main import main
from nas_osr.deploy.pictures import PictureFiles, try_pictures


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    """A copy of the model alone."""
    return Path(shutil.copytree(trained / "split-0" / "model", tmp_path / "model"))


def test_a_graph_beside_the_model_answers_as_the_model_does(model: Path, pictures: Path) -> None:
    assert main(["export", str(model), "--format", "onnx,safetensors"]) == 0
    names = ["README.md", "model.json", "model.onnx", "model.safetensors"]
    assert sorted(path.name for path in model.iterdir()) == names
    opened, files = nas_osr.load(model, device="cpu"), list(PictureFiles([pictures]))
    images = np.stack([image.numpy() for image in try_pictures(files, opened.model.inputs)])  # type: ignore[union-attr]
    label, nearest, knownness, margin = onnxruntime.InferenceSession(model / "model.onnx").run(None, {"images": images})
    answers = opened.ask(files)
    assert np.array_equal(label, answers.labels) and np.array_equal(nearest, answers.nearest)
    assert np.allclose(knownness, answers.knownness, atol=1e-3) and np.allclose(margin, answers.margin, atol=1e-3)
    assert "`model.onnx` holds preprocessing" in (model / "README.md").read_text()


def test_8_bits_are_measured_and_in_the_card(
    model: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, out = Path(shutil.copytree(pictures, tmp_path / "photos")), tmp_path / "out"
    (photos / "9").rename(photos / "other")  # plays an unknown class
    arguments = ["export", str(model), "--format", "onnx", "--int8", "--images", str(photos), "--out", str(out)]
    assert main(arguments) == 0
    assert (out / "model.int8.onnx").stat().st_size < 0.6 * (out / "model.onnx").stat().st_size
    card, said = (out / "README.md").read_text(), capsys.readouterr().out
    # 5 known classes of 40: half calibrates, the rest and 40 unknown ones measure
    assert "calibrated on 100 images" in card and "on 140 others" in " ".join(card.split())
    rows = {cells[1].strip(): cells[2:4] for line in said.splitlines() if len(cells := line.split("|")) == 5}
    assert set(rows) >= {"accuracy", "AUROC", "known images accepted", "megabytes", "images a second", "same label"}
    assert all(line in card for line in said.splitlines() if line.startswith("| "))
    before, after = map(float, rows["accuracy"])
    assert before > 0.5 and abs(before - after) < 0.1
    assert float(rows["same label"][1].strip().removesuffix("%")) > 85


def test_8_bits_of_a_run_take_its_own_images(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["export", str(trained), "--format", "onnx", "--int8", "--device", "cpu", "--out", str(out)]) == 0
    assert "on 359 others" in " ".join((out / "README.md").read_text().split())
    assert "| AUROC |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{model}", "--format", "onnx", "--int8"], "int8 is calibrated on images: name a folder"),
        (
            ["{model}", "--format", "onnx", "--int8", "--images", "{model}"],
            "expected folders named after known classes",
        ),
        (["{model}", "--format", "onnx", "--out", "{own}"], "README.md: is not a model card and would be replaced"),
        (["{model}", "--format", "safetensors", "--out", "{own}"], "is not a model card and would be replaced"),
        (["{own}", "--format", "onnx"], "{own}"),
        (["{model}", "--format", "onnx", "--image_type", "int16"], "image_type"),
    ],
)
def test_mistakes_are_a_line(
    arguments: list[str], message: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"model": str(model), "own": str(tmp_path / "own")}
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "README.md").write_text("my project")
    assert main(["export", *(argument.format(**places) for argument in arguments)]) == 2
    said = capsys.readouterr().err
    assert message.format(**places) in said and said.count("\n") == 1
    assert (tmp_path / "own" / "README.md").read_text() == "my project"
    assert not (tmp_path / "own" / "model.onnx").exists()


def test_a_missing_package_is_named(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(["export", str(model), "--format", "onnx"]) == 2
    assert "pip install nas-osr[onnx]" in capsys.readouterr().err
