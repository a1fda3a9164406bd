"""A small model of real digits, and digits as picture files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.retrain.run import run_retrain


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A retraining on digits (2, 4, 5, 9, 8, 3 are known)."""
    out = tmp_path_factory.mktemp("deploy") / "run"
    request = RetrainRequest(
        architecture="random:0", protocol="digits", preset="tiny", limit_per_class=60, epochs=4, batch_size=32,
        objective="cross_entropy", device="cpu", threads=1, bootstrap=0, quiet=True, out=str(out),
    )  # fmt: skip
    run_retrain(request, ["nas-osr", "retrain"])
    return out


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the known digits the last 40 as DIGIT/NUMBER.png, 8x8 and grey."""
    root, bunch = tmp_path_factory.mktemp("pictures"), load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    for digit in (2, 3, 4, 5, 8, 9):
        (root / str(digit)).mkdir()
        for number in np.flatnonzero(bunch.target == digit)[-40:]:
            Image.fromarray(images[number]).save(root / str(digit) / f"{number}.png")
    return root
