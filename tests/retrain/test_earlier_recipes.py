"""A retraining that was begun before recipes had some of today's settings goes on."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from nas_osr.errors import UserError
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.retrain.run import run_retrain
from nas_osr.runs.run_folder import RunFolder

TINY: dict[str, Any] = {
    "protocol": "digits", "preset": "tiny", "limit_per_class": 12, "batch_size": 32, "device": "cpu", "threads": 1,
    "bootstrap": 0, "quiet": True, "objective": "cross_entropy", "network": "plain:width=4", "recipe": "adam",
    "resume": "auto",
}  # fmt: skip
LATER = ("padding", "border", "changes", "magnitude", "cutout", "jitter", "rounds", "blend", "flips", "mirrored")


def test_a_run_of_an_earlier_version_is_lengthened(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_retrain(RetrainRequest(**TINY, epochs=1, out=str(out)), ["x"])
    for folder in (out, out / "split-0"):
        run = RunFolder.open(folder)
        config = copy.deepcopy(run.read_config())
        for name in LATER:
            del config["recipe_config"][name]
        run.write_yaml("config.yaml", config)
    other = RetrainRequest(**TINY, epochs=2, recipe_config={"flips": "alternating"}, out=str(out))
    with pytest.raises(
        UserError, match=r"cannot resume: recipe_config\.flips was 'random' at the start and is 'alternating' now"
    ):
        run_retrain(other, ["x"])
    run_retrain(RetrainRequest(**TINY, epochs=2, out=str(out)), ["x"])
    whole = tmp_path / "whole"
    run_retrain(RetrainRequest(**TINY, epochs=2, out=str(whole)), ["x"])
    for name in ("history.jsonl", "predictions.csv", "config.yaml"):
        assert (out / "split-0" / name).read_bytes() == (whole / "split-0" / name).read_bytes(), name
