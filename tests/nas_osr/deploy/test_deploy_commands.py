"""`nas-osr predict` and `nas-osr calibrate` on picture files, end to end."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nas_osr
from nas_osr.cli.main import main

ON_CPU = ["--device", "cpu"]


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> str:
    """A copy of the model alone."""
    return str(shutil.copytree(trained / "split-0" / "model", tmp_path / "model"))


@pytest.fixture
def few(pictures: Path, tmp_path: Path) -> Path:
    """Three digits in folders, a text beside them, and two files that are no pictures."""
    for digit in ("2", "8"):
        (tmp_path / "few" / digit).mkdir(parents=True)
        for path in sorted((pictures / digit).iterdir())[:3]:
            shutil.copy(path, tmp_path / "few" / digit)
    (tmp_path / "few" / "notes.txt").write_text("of the camera")
    (tmp_path / "few" / "2" / "broken.png").write_bytes(b"\x89PNG but no more")
    (tmp_path / "few" / "8" / "empty.jpg").touch()
    return tmp_path / "few"


def fails(arguments: list[str], code: int) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == code


def test_a_table_with_what_cannot_be_read_on_stderr(model: str, few: Path, capsysbinary: Any) -> None:
    fails(["predict", model, str(few), *ON_CPU, "--batch_size", "2"], 1)
    out, err = (text.decode() for text in capsysbinary.readouterr())
    lines = out.splitlines()
    assert lines[0].split() == ["label", "nearest", "knownness", "margin", "path"] and len(lines) == 7
    paths = [path for path in sorted(few.rglob("*.png")) if path.name != "broken.png"]
    answers = nas_osr.load(model, device="cpu").ask(paths)
    names = ["2", "4", "5", "9", "8", "3", "unknown"]
    for line, path, label, nearest, known in zip(
        lines[1:], paths, answers.labels, answers.nearest, answers.knownness, strict=True
    ):
        words = line.split()
        assert words[:2] == [names[label], names[nearest]] and words[4] == str(path)
        assert float(words[2]) == pytest.approx(known, rel=1e-3)
    assert "broken.png cannot be read as an image" in err and "empty.jpg cannot be read as an image" in err
    assert "6 images, " in err and "a second; 2 could not be read; passed over: files: 1 of no image's suffix" in err


def test_json_and_csv_hold_the_same(model: str, few: Path, tmp_path: Path, capsysbinary: Any) -> None:
    fails(["predict", model, str(few), "--json", *ON_CPU], 1)
    records = [json.loads(line) for line in capsysbinary.readouterr()[0].splitlines()]
    assert [Path(record["path"]).name for record in records if "error" in record] == ["broken.png", "empty.jpg"]
    whole = [record for record in records if "error" not in record]
    assert [set(record) for record in whole] == [
        {"path", "label", "nearest", "knownness", "margin", "probability"} for _ in range(6)
    ]
    for record in whole:
        assert record["label"] == (record["nearest"] if record["margin"] >= 0 else "unknown")
    fails(["predict", model, str(few), "--csv", "--out", str(tmp_path / "answers.csv"), *ON_CPU], 1)
    assert capsysbinary.readouterr()[0] == b""
    rows = list(csv.DictReader(io.StringIO((tmp_path / "answers.csv").read_text())))
    assert [
        {**row, **{name: float(row[name]) for name in ("knownness", "margin", "probability")}} for row in rows
    ] == whole


def test_paths_come_from_standard_input(
    model: str, few: Path, capsysbinary: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [path for path in sorted(few.rglob("*.png")) if path.name != "broken.png"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(map(str, paths)) + "\n\n"))
    assert main(["predict", model, "-", "--csv", *ON_CPU]) == 0
    rows = list(csv.DictReader(io.StringIO(capsysbinary.readouterr()[0].decode())))
    assert [row["path"] for row in rows] == list(map(str, paths))
    assert main(["predict", model, str(paths[3]), "--json", *ON_CPU]) == 0
    alone = json.loads(capsysbinary.readouterr()[0])
    assert alone["label"] == rows[3]["label"] and alone["knownness"] == pytest.approx(
        float(rows[3]["knownness"]), rel=1e-4
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{model}"], "predict: images is missing"),
        (["{model}", "{empty}"], "no images there"),
        (["{model}", "{empty}", "--json", "--csv"], "json and csv exclude each other"),
        (["{model}/nowhere", "{empty}"], "no such model folder"),
        (["{empty}", "{empty}"], "model.json is missing"),
        (["{model}", "{empty}", "--out", "{empty}/no/file"], "cannot write"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    filled = [text.format(model=model, empty=tmp_path / "empty") for text in arguments]
    assert main(["predict", *filled]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_memory_does_not_grow_with_the_images(model: str, pictures: Path) -> None:
    """Files are read a batch at a time, when the one before has been answered."""
    opened = nas_osr.load(model, device="cpu", batch_size=8)
    asked: list[Path] = []

    def paths() -> Any:
        for path in sorted(pictures.rglob("*.png")):
            asked.append(path)
            yield path

    for number, (batch, answers) in enumerate(opened.ask_files(paths()), start=1):
        assert answers is not None and len(batch) == len(answers.labels) == 8
        assert len(asked) == 8 * number
    assert number == 30


def test_calibration_reaches_what_it_promises(
    model: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (Path(model) / "model.json").read_bytes()
    assert (
        main(["calibrate", model, str(pictures), "--accept", "0.9", "--out", f"{tmp_path}/new", "--json", *ON_CPU]) == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert (Path(model) / "model.json").read_bytes() == before
    new = nas_osr.load(tmp_path / "new", device="cpu")
    knownness = new.ask(sorted(pictures.rglob("*.png"))).knownness
    assert len(knownness) == result["images"] == 240
    assert new.thresholds.tolist() == [np.sort(knownness)[24 - 1]] * 6  # floor(241 x 0.1) = 24
    assert result["accepted"] == (240 - 23) / 240 and result["accepted_before"] != result["accepted"]
    said = new.model.about["calibration"]
    assert (said["accept"], said["images"], said["per_class"]) == (0.9, 240, False)
    assert said["thresholds_before"] == nas_osr.load(model, device="cpu").thresholds.tolist()
    assert new.model.about["metrics"] == nas_osr.load(model, device="cpu").model.about["metrics"]


def test_calibration_in_place_for_each_class(model: str, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = (Path(model) / "model.safetensors").read_bytes()
    (Path(model) / "model.onnx").touch()
    assert main(["calibrate", model, str(pictures), "--accept", "0.8", "--per_class", *ON_CPU]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0].split() == ["class", "threshold", "before", "threshold"] and len(out.splitlines()) == 9
    assert "model.onnx still has the former threshold" in err
    assert (Path(model) / "model.safetensors").read_bytes() == weights
    opened = nas_osr.load(model, device="cpu")
    answers = opened.ask(sorted(pictures.rglob("*.png")))
    for label, threshold in enumerate(opened.thresholds):
        own = np.sort(answers.knownness[answers.nearest == label])
        assert threshold == own[int((len(own) + 1) / 5) - 1]
    assert np.array_equal(opened.predict(sorted(pictures.rglob("*.png"))) == "unknown", answers.margin < 0)
    # all together again
    assert main(["calibrate", model, str(pictures), *ON_CPU]) == 0
    assert len(set(nas_osr.load(model, device="cpu").thresholds)) == 1


def test_what_would_break_the_promise_is_refused(
    model: str, pictures: Path, few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (Path(model) / "model.json").read_bytes()
    mixed = Path(shutil.copytree(pictures, tmp_path / "mixed"))
    os.rename(mixed / "3", mixed / "7")
    refused = {
        (str(mixed),): "7 is no known class of the model",
        (str(few),): "broken.png cannot be read",
        (
            str(pictures / "2"),
            "--accept",
            "0.99",
        ): "accept 0.99 needs 99 images of known classes at least, there are 40",
        (str(pictures), "--per_class", "--accept", "0.99"): "add some, or leave --per_class out",
        (str(pictures), "--accept", "95"): "must lie in (0, 1)",
        (str(pictures), "--out", model): "is there already",
    }
    for arguments, message in refused.items():
        assert main(["calibrate", model, *arguments, *ON_CPU]) == 2
        assert message in capsys.readouterr().err
    assert (Path(model) / "model.json").read_bytes() == before


PLUGIN = """
from nas_osr.scoring.base import Scores, ScoringRule

class Margin(ScoringRule):
    name = "margin"
    needs = frozenset({"logits"})

    def scores(self, outputs):
        best, second = outputs.logits.double().topk(2, dim=1).values.unbind(dim=1)
        return Scores(best - second, outputs.logits.double())
"""


def test_a_model_imports_no_class_that_is_not_named(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "deploy_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    out = str(tmp_path / "run")
    tiny = [
        "random:0",
        "--protocol",
        "digits",
        "--preset",
        "tiny",
        "--epochs",
        "1",
        "--limit_per_class",
        "10",
        "--bootstrap",
        "0",
        "--quiet",
    ]
    assert main(["retrain", *tiny, *ON_CPU, "--rule", "deploy_plugin.Margin", "--out", out]) == 0
    sys.modules.pop("deploy_plugin")
    assert main(["predict", out, str(pictures), *ON_CPU]) == 2
    assert "add --plugin deploy_plugin" in capsys.readouterr().err and "deploy_plugin" not in sys.modules
    try:
        assert main(["predict", out, str(pictures), *ON_CPU, "--plugin", "deploy_plugin"]) == 0
        assert main(["calibrate", out, str(pictures), *ON_CPU, "--plugin", "deploy_plugin"]) == 0
    finally:
        sys.modules.pop("deploy_plugin", None)
