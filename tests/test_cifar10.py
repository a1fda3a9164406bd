"""The main job on real CIFAR-10 images, from the command line; needs NAS_OSR_DATA."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nas_osr.cli.main import main
from nas_osr.data.sources import open_source

pytestmark = pytest.mark.slow
SMALL = [
    "--preset",
    "tiny",
    "--batch_size",
    "32",
    "--limit_per_class",
    "60",
    "--device",
    "cpu",
    "--threads",
    "1",
    "--quiet",
]


@pytest.fixture
def images() -> None:
    """Skip without CIFAR-10 and CIFAR-100 images."""
    folder = os.environ.get("NAS_OSR_DATA")
    if not folder:
        pytest.skip("NAS_OSR_DATA is not set: no CIFAR-10 images to test on")
    for source in ("cifar10", "cifar100"):
        if open_source(source, Path(folder)).find("test") is None:
            pytest.skip(f"{folder} has no test images of {source}")


def test_search_export_retrain_evaluate(images: None, tmp_path: Path) -> None:
    search, pictures, retrain = (str(tmp_path / name) for name in ("search", "pictures", "retrain"))
    arguments = ["--protocol", "cifar10", "--split", "1", "--epochs", "2", "--warmup_epochs", "1", "--out", search]
    assert main(["search", *arguments, *SMALL]) == 0
    assert main(["export", search, "--format", "svg,png,gv,graphml,json", "--out", pictures]) == 0
    assert (tmp_path / "pictures" / "architecture.png").read_bytes().startswith(b"\x89PNG")
    arguments = ["--protocol", "cifar+10", "--epochs", "2", "--bootstrap", "20", "--out", retrain]
    assert main(["retrain", search, *arguments, *SMALL]) == 0
    result = json.loads((tmp_path / "retrain" / "split-0" / "metrics.json").read_text())
    assert result["test_images"] == {"known": 240, "unknown": 600}
    assert 0.3 < result["metrics"]["auroc"] < 1.0
    assert main(["evaluate", retrain, "--rule", "mls", "--device", "cpu", "--threads", "1"]) == 0
    assert (tmp_path / "retrain" / "split-0" / "metrics-mls.json").exists()
