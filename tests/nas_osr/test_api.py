"""The functions for scripts: the same options, results and refusals as the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

import nas_osr


def test_search_retrain_evaluate_in_a_script(tmp_path: Path) -> None:
    common = {"protocol": "digits", "limit_per_class": 30, "device": "cpu", "threads": 1, "quiet": True}
    found = nas_osr.search(
        **common, preset="tiny", layers=3, epochs=2, warmup_epochs=1, batch_size=16, out=str(tmp_path / "search")
    )
    result = nas_osr.train(
        **common,
        architecture=found["out"],
        preset="tiny",
        epochs=1,
        batch_size=32,
        bootstrap=0,
        out=str(tmp_path / "retrain"),
    )
    again = nas_osr.evaluate(run=result["out"], device="cpu", threads=1, bootstrap=0)
    assert again[0]["metrics"]["auroc"] == result["metrics"]["auroc"]["mean"]


def test_wrong_options_are_named() -> None:
    with pytest.raises(nas_osr.UserError, match="search has no option 'protocoll'"):
        nas_osr.search(protocoll="digits")
    with pytest.raises(nas_osr.UserError, match="evaluate: run is missing"):
        nas_osr.evaluate()
