"""The functions for scripts: the same options, results and refusals as the command line."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nas_osr
from nas_osr.option_docs import list_options

ROOT = Path(__file__).resolve().parents[2]


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
    for wrong, message in (
        ({"protocoll": "digits"}, "nas_osr.search: there is no option protocoll; did you mean protocol?"),
        ({"epochs": "many"}, "nas_osr.search: epochs must be a whole number or null, got 'many'"),
    ):
        with pytest.raises(nas_osr.UserError) as caught:
            nas_osr.search(**wrong)
        assert str(caught.value) == message
    with pytest.raises(nas_osr.UserError, match="evaluate: run is missing"):
        nas_osr.evaluate()
    with pytest.raises(TypeError, match="run"):
        nas_osr.evaluate("a", run="b")


def test_values_of_python_are_as_good_as_plain_ones(tmp_path: Path) -> None:
    plan = nas_osr.train(
        architecture="random:0", protocol="digits", preset="tiny", splits=range(2), seeds=[np.int64(0), 1],
        epochs=np.int64(1), out=tmp_path / "x", device="cpu", dry_run=np.bool_(True),
    )  # fmt: skip
    asked = plan["would_retrain"]
    assert [(part["splits"], part["seeds"]) for part in asked] == [("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")]
    assert {part["epochs"] for part in asked} == {1}
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("function", "request_class"),
    [(nas_osr.search, nas_osr.SearchRequest), (nas_osr.train, nas_osr.RetrainRequest)],
)
def test_signature_and_help_are_those_of_the_request(function: Any, request_class: type) -> None:
    signature = inspect.signature(function)
    assert list(signature.parameters) == [item.name for item in fields(request_class)]
    assert signature.parameters["epochs"].annotation == (int | None)
    assert issubclass(signature.return_annotation, dict)
    for option in list_options(request_class):
        assert f"    {option.name}: {option.help}" in function.__doc__


def test_a_type_checker_knows_the_options(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("from nas_osr import search, train\nsearch(epochs=3)\nsearch(epochs='x')\ntrain(epoch=3)\n")
    mypy = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(script)]
    done = subprocess.run(mypy, capture_output=True, text=True, check=False, cwd=ROOT)
    wrong = [line.partition(": error: ")[0] for line in done.stdout.splitlines() if ": error: " in line]
    assert [place.rpartition(":")[2] for place in wrong] == ["3", "4"]
