"""The first line of each run says what its images are, and nothing is dropped in silence."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas_osr.cli.main import main
from nas_osr.data.counting import describe_counts
from nas_osr.data.sources.listing import PassedOver
from nas_osr.files.storage import read_config

SMALL = ["--preset", "tiny", "--batch_size", "8", "--epochs", "1", "--device", "cpu", "--threads", "1"]
RUN = [*SMALL, "--protocol", "cifar10", "--known", "automobile,bird,cat", "--objective", "cross_entropy"]


def test_descriptions() -> None:
    passed = PassedOver()
    assert describe_counts({}, passed) == "no images"
    assert describe_counts({"a": 1}, passed) == "1 class of 1 image, 1 in all"
    assert describe_counts({"a": 1200, "b": 1200}, passed) == "2 classes of 1,200 images, 2,400 in all"
    passed.files["damaged"] += 1000
    assert describe_counts({"a": 3, "b": 1}, passed) == (
        "2 classes of 1 (class b) to 3 (class a) images, 4 in all; passed over: files: 1,000 damaged"
    )


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Pictures of all classes under aliases; one file more is damaged in train, and one in test."""
    generator = np.random.default_rng(0)
    for part, count in (("train", 10), ("test", 3)):
        for name in ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "lorry"):
            folder = tmp_path / "data" / "cifar10" / part / name
            folder.mkdir(parents=True)
            for number in range(count - (name == "deer")):
                pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
        (tmp_path / "data" / "cifar10" / part / "bird" / "broken.jpg").write_bytes(b"x")
    return tmp_path / "data"


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The lines about images that were printed."""
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    caplog.clear()
    return [line for line in lines if line.startswith(("cifar10 ", "digits "))]


def test_a_run_and_its_evaluation(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    run = ["retrain", "random:0", *RUN, "--data_dir", str(images), "--bootstrap", "0", "--out", out]
    assert main(run) == 2
    assert "broken.jpg cannot be read" in capsys.readouterr().err
    assert main([*run, "--skip_broken", "--quiet"]) == 0
    expected = [
        "cifar10 (cifar10, train, known): 3 classes of 10 images, 30 in all; passed over: files: 1 damaged",
        "cifar10 (cifar10, test, known): 3 classes of 3 images, 9 in all; passed over: files: 1 damaged",
    ]
    assert said(caplog) == expected  # also when quiet: something is passed over
    assert read_config(tmp_path / "run" / "split-0" / "config.yaml")["skip_broken"] is True
    assert main(["evaluate", out, "--bootstrap", "0", "--device", "cpu"]) == 0
    unknown = "cifar10 (cifar10, test, unknown): 7 classes of 2 (class deer) to 3 (class airplane) images, 20 in all"
    assert said(caplog) == [*expected, unknown]

    (tmp_path / "holidays").mkdir()
    for number in range(2):
        Image.new("L", (50, 40), number).save(tmp_path / "holidays" / f"{number}.gif")
    (tmp_path / "holidays" / "broken.tif").write_bytes(b"x")
    (tmp_path / "holidays" / "notes.txt").touch()
    assert main(["evaluate", out, "--bootstrap", "0", "--device", "cpu", "--unknown", str(tmp_path / "holidays")]) == 0
    line = "1 class of 2 images, 2 in all; passed over: files: 1 damaged, 1 of no image's suffix"
    assert said(caplog)[2] == f"cifar10 (folder, test, unknown): {line}"  # broken ones as the run was told


def test_a_search_says_it_unless_it_is_quiet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    search = ["search", *SMALL, "--protocol", "digits", "--limit_per_class", "20", "--warmup_epochs", "0", "--out"]
    assert main([*search, str(tmp_path / "a")]) == 0
    assert said(caplog) == ["digits (digits, train, known): 6 classes of 20 images, 120 in all"]
    assert main([*search, str(tmp_path / "b"), "--quiet"]) == 0
    assert said(caplog) == []
