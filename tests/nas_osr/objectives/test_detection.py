"""Objectives of open-set recognition, each with its own rule, tell unknown digits from known ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import nas_osr

DIGITS: dict[str, Any] = {
    "architecture": "random:0", "protocol": "digits", "preset": "tiny", "limit_per_class": 60, "epochs": 8,
    "device": "cpu", "threads": 1, "bootstrap": 0, "quiet": True,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "settings"),
    [("arpl", {}), ("arpl", {"confusing_samples": True, "gan_width": 4}), ("proser", {}), ("conosr", {})],
)
def test_unknown_digits_are_found(objective: str, settings: dict[str, Any], tmp_path: Path) -> None:
    found = nas_osr.train(**DIGITS, objective=objective, objective_config=settings, out=str(tmp_path / "run"))
    metrics = found["parts"]["split-0"]
    assert metrics["auroc"] > 0.75 and metrics["closed_set_accuracy"] > 0.8, metrics
