"""docs/how-to/own-pictures.md: its commands, as they are written, on pictures that are made here."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import nas_osr
from nas_osr.cli.main import main
from nas_osr.runs.run_folder import RunFolder

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "how-to" / "own-pictures.md").read_text()
FAST = {
    "preset": "tiny", "epochs": 1, "batch_size": 8, "objective": "cross_entropy", "device": "cpu", "threads": 1,
    "quiet": True,
}  # fmt: skip


def paint(folder: Path, count: int, seed: int, side: int = 48) -> None:
    """Images of a class: a pattern of its own under noise."""
    generator = np.random.default_rng(seed)
    pattern = generator.integers(0, 256, (6, 6, 3))
    folder.mkdir(parents=True)
    for index in range(count):
        blocks = (pattern + generator.integers(-60, 60, pattern.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(np.kron(blocks, np.ones((side // 6, side // 6, 1), np.uint8))).save(folder / f"{index}.jpg")


def arguments(command: str, **changes: Any) -> list[str]:
    """What follows nas-osr, with options that make it fast."""
    given = shlex.split(command)[1:]
    options = {**FAST, **changes} if given[0] != "evaluate" else {"device": "cpu", "bootstrap": 0}
    if given[0] == "retrain":
        options["bootstrap"] = 0
    return [*given, *(f"--{name}={str(value).lower()}" for name, value in options.items())]


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("ant", "bee", "cat", "dog", "elk")):
        paint(tmp_path / "photos" / name, 20, number)
    paint(tmp_path / "photos" / "unknown", 6, 10)
    paint(tmp_path / "holidays", 7, 11)
    (commands,) = re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
    everything, search, retrain, evaluate, holidays = commands.splitlines()

    assert main(arguments(everything)) == 0
    assert "photos: told by its images: known ant, bee, cat, dog, elk; unknown unknown; image_size 64" in caplog.text
    assert "known validation images are too few for a threshold that accepts 95 % of known images: 19" in caplog.text
    metrics = RunFolder.open(tmp_path / "runs/all/split-0").read_json("metrics.json")
    assert metrics["test_images"]["unknown"] == 6 and metrics["protocol"]["unknown"] == ["unknown"]

    assert main(arguments(search, epochs=2, warmup_epochs=1)) == 0
    assert main(arguments(retrain)) == 0
    part = RunFolder.open(tmp_path / "runs/trained/split-0")
    config = part.read_config()
    assert (config["known"], config["unknown"]) == (["ant", "bee", "cat"], ["dog", "elk"])
    assert (config["image_size"], config["grey"]) == (64, False)
    before = part.read_json("metrics.json")
    assert before["test_images"]["unknown"] == 40

    paint(tmp_path / "photos" / "aardvark", 5, 12)  # comes later: changes nothing
    assert main(arguments(evaluate)) == 0
    after = part.read_json("metrics.json")
    assert (after["metrics"], after["data_fingerprints"]) == (before["metrics"], before["data_fingerprints"])
    assert main(arguments(holidays)) == 0
    other = part.read_json("metrics-holidays.json")
    assert other["test_images"] == {**before["test_images"], "unknown": 7}
    assert other["data_fingerprints"]["known"] == before["data_fingerprints"]["known"]


def test_the_python_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("ant", "bee", "cat")):
        paint(tmp_path / "photos" / name, 20, number)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    fast = {**FAST, "bootstrap": 0}
    exec(code.rstrip().removesuffix(")").rstrip().rstrip(",") + ", **fast)", {"nas_osr": nas_osr, "fast": fast})
    config = RunFolder.open(tmp_path / "runs/python/split-0").read_config()
    assert (config["known"], config["unknown"], config["image_size"]) == (["ant", "bee"], ["cat"], 32)
