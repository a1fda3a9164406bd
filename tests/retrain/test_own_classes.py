"""Own classes with any names, through whole runs: from the command line, YAML and Python, and again from the record."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import nas_osr
from nas_osr.cli.main import main
from nas_osr.errors import UserError
from nas_osr.retrain.evaluate import shows_outliers
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.runs.run_folder import RunFolder

KNOWN, UNKNOWN = ["no", "1e3", "null", "01", "a, b"], ["1", "é [x]"]
FAST: dict[str, Any] = {
    "architecture": "random:0", "protocol": "folder", "preset": "tiny", "channels": 16, "epochs": 1, "batch_size": 16,
    "objective": "cross_entropy", "device": "cpu", "threads": 1, "bootstrap": 0, "quiet": True,
}  # fmt: skip


@pytest.fixture
def images(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for name in [*KNOWN, *UNKNOWN]:
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(8):
            pixels = generator.integers(0, 256, (16, 16), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{index}.png")
    return tmp_path / "images"


def test_every_way_to_ask_is_the_same_run(images: Path, tmp_path: Path) -> None:
    options = [f"--{name}={str(value).lower()}" for name, value in FAST.items()]
    asked = ["--data_dir", str(images), "--known", 'no,1e3,null,01,"a, b"', "--unknown", '1,"é [x]"']
    assert main(["retrain", *options, *asked, "--out", str(tmp_path / "line")]) == 0
    file = tmp_path / "asked.yaml"
    file.write_text(f"data_dir: {images}\nknown: [no, 1e3, null, 01, 'a, b']\nunknown:\n- 1\n- é [x]\n")
    assert main(["retrain", *options, "--config", str(file), "--out", str(tmp_path / "yaml")]) == 0
    nas_osr.train(**FAST, data_dir=images, known=KNOWN, unknown=(np.int64(1), "é [x]"), out=str(tmp_path / "python"))
    record = tmp_path / "line" / "split-0" / "config.yaml"
    (images / "0").mkdir()  # comes later
    shutil.copy(images / "1" / "0.png", images / "0" / "0.png")
    assert main(["retrain", "--config", str(record), "--quiet", "--out", str(tmp_path / "again")]) == 0
    runs = [RunFolder.open(tmp_path / name / "split-0") for name in ("line", "yaml", "python", "again")]
    for run in runs:
        assert {**run.read_config(), "data_dir": ""} == {**runs[0].read_config(), "data_dir": ""}
        assert run.read_json("metrics.json") == runs[0].read_json("metrics.json")
    config = runs[0].read_config()
    assert (config["known"], config["unknown"], config["grey"]) == (KNOWN, UNKNOWN, True)
    with open(runs[0].path / "predictions.csv", newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    assert {row["true_class"] for row in rows if row["true_label"] == "5"} == set(UNKNOWN)
    assert {row["true_class"]: row["true_label"] for row in rows if row["true_label"] != "5"} == {
        name: str(label) for label, name in enumerate(KNOWN)
    }


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ([True, "01"], "nas_osr.train: known must be a list of class names .*True is no name"),
        ([1.0, "01"], "1.0 is no name: if a class is called so, put it in quotes"),
        ([None, "01"], "None is no name"),
        (["no", "1"], "class 1 is both known and unknown"),
        (["no", "absent"], "images has no folder for class absent: bring it back"),
        (["no", "unknown"], "has no class unknown|class unknown cannot be known"),
    ],
)
def test_what_is_no_class_is_refused_in_one_line(images: Path, tmp_path: Path, known: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        nas_osr.train(**FAST, data_dir=images, known=known, unknown=["1"], out=str(tmp_path / "run"))
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_outliers_never_play_the_unknown(images: Path, tmp_path: Path) -> None:
    own = RetrainRequest(outliers="folder", data_dir=str(images))
    assert shows_outliers("folder", own) and shows_outliers(str(images), own) and shows_outliers(str(images / "1"), own)
    assert not shows_outliers("digits", own) and not shows_outliers(str(tmp_path), own)
    assert shows_outliers("svhn", RetrainRequest(outliers="svhn")) and not shows_outliers("svhn", RetrainRequest())
