"""Every strategy of the table, and the one that the docs show: what all of them keep to."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nas_osr
from nas_osr.data.dataset import LabelledImages, OpenSetData
from nas_osr.errors import UserError
from nas_osr.runs.recorder import RunRecorder
from nas_osr.runs.run_folder import RunFolder
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.architectures.export import load_with_weights
from nas_osr.search_spaces.space import Space
from nas_osr.strategies import STRATEGIES, make_strategy
from nas_osr.strategies.search_plan import plan_search
from nas_osr.strategies.search_request import SearchRequest

ROOT = Path(__file__).resolve().parents[2]
COMMON: dict[str, Any] = {
    "protocol": "digits", "preset": "tiny", "layers": 3, "channels": 16, "epochs": 2, "batch_size": 4, "seed": 3,
    "limit_per_class": 20, "objective": "cross_entropy", "device": "cpu", "threads": 1, "quiet": True,
}  # fmt: skip
BILEVEL, TRIALS = {"warmup_epochs": 1}, {"trials": 3}
OWN: dict[str, dict[str, Any]] = {
    "pas": BILEVEL,
    "darts": BILEVEL,
    "single_path": {"trials": 20, "population": 4, "tournament": 2},
    "random": TRIALS,
    "evolution": {"trials": 4, "population": 2, "tournament": 1},
    "halving": {"trials": 4, "factor": 2},
    "predictor": {"trials": 4, "initial": 2, "candidates": 10},
    "nsga": {"trials": 4, "population": 2},
    "my_strategies.Climb": TRIALS,
}
FILES = {
    "architecture.graphml", "architecture.gv", "architecture.json", "architecture.svg", "checkpoint.pt", "config.yaml",
    "history.jsonl", "provenance.json", "timing.jsonl",
}  # fmt: skip
COMPARED = ("architecture.json", "architecture.graphml", "architecture.svg", "config.yaml", "history.jsonl")


@pytest.fixture(scope="module", autouse=True)
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The strategy of the docs, where Python finds it."""
    page = (ROOT / "docs" / "how-to" / "own-strategy.md").read_text()
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL) if "class Climb" in block]
    folder = tmp_path_factory.mktemp("plug-in")
    (folder / "my_strategies.py").write_text(code)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))
    sys.modules.pop("my_strategies", None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each strategy; filled when a test asks first."""
    return {name: tmp_path_factory.mktemp(name) / "run" for name in OWN}


def search(name: str, out: Path, **changes: Any) -> dict[str, Any]:
    options = {**COMMON, "strategy": name, "strategy_config": OWN[name], "out": str(out), **changes}
    return nas_osr.search(**options)


def whole(name: str, finished: dict[str, Path]) -> Path:
    """The folder of an undisturbed search."""
    if not finished[name].exists():
        search(name, finished[name])
    return finished[name]


def test_all_of_the_table_are_here() -> None:
    assert {*STRATEGIES} == {*OWN} - {"my_strategies.Climb"}


@pytest.mark.parametrize("name", OWN)
def test_it_finds_an_architecture_and_leaves_the_same_files(
    name: str, finished: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: OpenSetData) -> LabelledImages:
        raise AssertionError("a search opened the test images")

    monkeypatch.setattr(OpenSetData, "test", refuse)
    out = whole(name, finished)
    assert {path.name for path in out.iterdir()} >= FILES
    architecture, weights = load_with_weights(out)
    assert architecture.space == Space(layers=3, channels=16)
    found, history = architecture.found, RunFolder.open(out).read_history()
    assert [record["epoch"] for record in history] == list(range(len(history)))
    assert found["strategy"] == name and history[found["epoch"]]["f1"] == found["F1"]
    assert history[found["epoch"]]["branches"] == architecture.to_dict()["branches"]
    assert (weights is not None) == (name in ("pas", "darts"))
    fronts = [load_with_weights(path)[0].found for path in sorted((out / "front").glob("trial-*.json"))]
    assert bool(fronts) == (name not in ("pas", "darts"))  # whatever tries architectures leaves its front
    assert all(history[point["epoch"]]["f1"] == point["F1"] and point["strategy"] == name for point in fronts)
    assert len(found["pseudo_unknown"]) == (0 if name == "darts" else 2)
    timing = RunFolder.open(out).read_timing()
    assert all(entry["seconds"] >= entry["training_seconds"] > 0 and entry["images"] > 0 for entry in timing)
    # what config.yaml says is all: it runs the same again
    config = RunFolder.open(out).read_config()
    again = nas_osr.search(**config, out=str(out), resume="auto")
    assert again["f1"] == found["F1"] and again["branches"] == architecture.to_dict()["branches"]


@pytest.mark.parametrize("name", OWN)
def test_interrupted_twice_it_leaves_the_same_bytes(
    name: str, finished: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two steps, each time; the undisturbed search has the same seed."""
    expected = whole(name, finished)
    out, left = tmp_path / "run", [0]
    wants_checkpoint = RunRecorder.wants_checkpoint

    def interrupt(self: RunRecorder) -> bool:
        left[0] -= 1
        if left[0] == 0:
            wants_checkpoint(self)
            os.kill(os.getpid(), signal.SIGINT)
        return wants_checkpoint(self)

    monkeypatch.setattr(RunRecorder, "wants_checkpoint", interrupt)
    # in the first epoch and after warm-up; or in the first and in the second trial
    for steps in (5, 8) if "warmup_epochs" in OWN[name] else (23, 30):
        left[0] = steps
        with pytest.raises(KeyboardInterrupt):
            search(name, out, resume="auto")
    left[0] = -1
    search(name, out, resume="auto")
    for file in COMPARED:
        assert (out / file).read_bytes() == (expected / file).read_bytes(), file


@pytest.mark.parametrize("name", OWN)
def test_a_dry_run_says_what_it_costs_and_what_it_would_run(name: str, tmp_path: Path) -> None:
    plan = search(name, tmp_path / "run", dry_run=True)
    assert json.dumps(plan) and list(tmp_path.iterdir()) == []
    estimate = plan["estimate"]
    assert estimate["seconds"] > 0 and estimate["flops"] > 0 and estimate["memory_bytes"]["total"] > 0
    assert plan["would_search"]["strategy_config"].items() >= OWN[name].items()


def test_trials_are_different_architectures_and_the_best_wins(finished: dict[str, Path]) -> None:
    history = RunFolder.open(whole("random", finished)).read_history()
    assert len(history) == 3 and len({json.dumps(record["branches"]) for record in history}) > 1
    assert {record["phase"] for record in history} == {"trial"}
    best = max(history, key=lambda record: record["f1"])
    assert Architecture.load(finished["random"] / "architecture.json").found["epoch"] == best["epoch"]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "annealing",
            {},
            "unknown strategy 'annealing': choose from pas, darts, single_path, random, evolution, halving, predictor,",
        ),
        ("my_strategies.Trap", {}, "my_strategies has no class Trap derived from Strategy"),
        (
            "random",
            {"order": "weights_first"},
            "strategy random has no setting 'order': it has trials, rotations, criterion",
        ),
        ("pas", {"warmup_epochs": -1}, "warmup_epochs must not be negative, got -1"),
        ("pas", {"architecture_lr": 0}, "architecture_lr must be greater than 0"),
    ],
)
def test_wrong_names_and_settings_are_refused(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        make_strategy(name, settings, "tiny")


def test_presets_set_what_the_user_does_not() -> None:
    assert make_strategy("pas", {}, "paper").config.warmup_epochs == 30
    assert make_strategy("darts", {"warmup_epochs": 3}, "paper").config.warmup_epochs == 3
    assert make_strategy("darts", {"warmup_epochs": 3}, "paper").config.architecture_lr == 3e-4


@pytest.mark.parametrize(
    ("options", "settings", "expected", "left_out"),
    [
        ({}, {}, {"partial_channels": 4, "final_entropy": 0.1}, []),
        ({"space": "wide"}, {}, {"partial_channels": 1, "final_entropy": 0.1}, ["partial_channels"]),
        ({"channels": 18}, {}, {"partial_channels": 1, "final_entropy": 0.1}, ["partial_channels"]),
        ({}, {"sampler": "gdas"}, {"partial_channels": 4, "final_entropy": 0.0}, ["final_entropy"]),
        ({}, {"final_entropy": 0.5}, {"final_entropy": 0.5}, []),
    ],
    ids=str,
)
def test_a_preset_asks_for_nothing_that_the_rest_of_the_request_forbids(
    options: dict[str, Any],
    settings: dict[str, Any],
    expected: dict[str, float],
    left_out: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    request = SearchRequest(protocol="cifar10", preset="small", strategy_config=settings, **options)
    config = plan_search(request).strategy.config
    assert {name: getattr(config, name) for name in expected} == expected
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition(": without its ")[2].partition(",")[0] for line in lines] == left_out
