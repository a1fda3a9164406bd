"""What shows that a search collapses, on hand-worked records and in whole searches."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nas_osr.errors import UserError
from nas_osr.runs.run_folder import RunFolder
from nas_osr.search_spaces.space import Space
from nas_osr.search_spaces.supernet import build_supernet
from nas_osr.strategies import make_strategy
from nas_osr.strategies.bilevel import search as bilevel
from nas_osr.strategies.bilevel.search_monitors import (
    STOP_EPOCHS,
    entropies,
    monitor_search,
    parameter_free,
    search_figures,
)
from nas_osr.strategies.run import run_search
from nas_osr.strategies.search_request import SearchRequest

TINY: dict[str, Any] = {
    "protocol": "digits", "preset": "tiny", "layers": 3, "epochs": 6,
    "strategy_config": {"warmup_epochs": 1, "temperature": 0, "settled": 0},
    "batch_size": 16, "limit_per_class": 20, "device": "cpu", "threads": 1, "quiet": True,
    "objective": "cross_entropy",
}  # fmt: skip
FREE = {"skip"}
THIRD = 1 / 3


def record(operations: list[str], skip: float = 0.5, **changes: Any) -> dict[str, Any]:
    other = (1 - skip) / 2
    return {
        "epoch": 3, "phase": "search", "losses": {"ce": 1.0}, "f1": 0.8, "discrete_f1": 0.7,
        "alpha": {f"{l}/0": {"skip": skip, "conv": other, "conv2": other} for l in range(len(operations))},
        "beta": {"0/0": {"finer": 0.0, "same": 1.0}, "1/1": {"finer": 0.25, "same": 0.75}},
        "branches": {"2": {"path": [0] * len(operations), "operations": operations}},
        **changes,
    }  # fmt: skip


def kinds(value: dict[str, Any], last: bool = False, history: list[dict[str, Any]] | None = None) -> set[str]:
    return set(monitor_search(value, {}, history or [], FREE, "none", last)["warnings"])


def test_figures_of_a_record_by_hand() -> None:
    mixed = record(["skip", "conv", "conv2", "skip"])
    mixed["alpha"]["0/0"] = {"skip": 1.0, "conv": 0.0, "conv2": 0.0}
    found = search_figures(mixed, FREE)
    assert found["parameter_free"] == {"decoded": 0.5, "alpha": pytest.approx((1.0 + 3 * 0.5) / 4)}
    own = (0.5 * math.log(2) + 0.5 * math.log(4)) / math.log(3)
    two = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / math.log(2)
    assert found["entropy"]["alpha"] == pytest.approx(3 * own / 4)
    assert found["entropy"]["alpha_by_layer"] == {"0": 0.0, **{str(l): pytest.approx(own) for l in (1, 2, 3)}}
    assert found["entropy"]["beta"] == pytest.approx(two)  # the cell with one source has no choice
    assert found["entropy"]["beta_by_layer"] == {"1": pytest.approx(two)}
    assert found["discretisation_gap"] == pytest.approx(0.1)


def test_branches_that_share_a_cell_count_it_once() -> None:
    both = record(["skip", "conv", "conv"])
    both["branches"] = {
        "1": {"path": [0, 1, 1], "operations": ["skip", "conv", "conv"]},
        "2": {"path": [0, 1, 2], "operations": ["skip", "conv", "conv2"]},
    }
    assert search_figures(both, FREE)["parameter_free"]["decoded"] == 0.25


def test_spaces_without_a_choice_have_no_entropy() -> None:
    alone = record(["skip"] * 3, alpha={"0/0": {"skip": 1.0}}, beta={"0/0": {"finer": 0.0, "same": 1.0}})
    found = search_figures(alone, FREE)["entropy"]
    assert found == {"alpha": None, "beta": None, "alpha_by_layer": {}, "beta_by_layer": {}}
    assert kinds(alone, last=True) == {"skips"}


@given(st.lists(st.floats(1e-9, 1.0), min_size=2, max_size=6))
def test_entropy_is_scipys(weights: list[float]) -> None:
    from scipy.stats import entropy

    p = np.array(weights) / sum(weights)
    found = entropies({"0/0": dict(enumerate(p.tolist()))})["0/0"]  # type: ignore[dict-item]
    assert found == pytest.approx(entropy(p, base=len(p)), abs=1e-12)
    assert -1e-12 <= found <= 1 + 1e-12


@pytest.mark.parametrize(
    ("operations", "warned"),
    [
        (["skip", "conv", "conv"], False),
        (["skip", "skip", "conv"], True),
        ([*["skip"] * 3, *["conv"] * 3], False),
        ([*["skip"] * 4, *["conv"] * 2], True),  # of six cells chance picks two
        (["conv"] * 8, False),
    ],
)
def test_skips_are_warned_of_from_twice_chance_and_two_on(operations: list[str], warned: bool) -> None:
    assert kinds(record(operations)) == ({"skips"} if warned else set())
    assert kinds(record(operations, skip=0.3)) == set()  # less than equal alphas would give it: chance
    assert kinds(record(operations, phase="warmup")) == set()  # nothing is decided yet


@pytest.mark.parametrize(
    ("skips", "cells", "candidates", "warned"),
    [(2, 8, 8, True), (1, 8, 8, False), (2, 9, 8, False), (3, 9, 8, True), (3, 4, 2, False), (4, 4, 2, True)],
)
def test_two_of_eight_among_eight_is_where_darts_plus_stops(
    skips: int, cells: int, candidates: int, warned: bool
) -> None:
    alpha = {"skip": 0.8, **{f"conv{number}": 0.2 / (candidates - 1) for number in range(1, candidates)}}
    operations = ["skip"] * skips + ["conv1"] * (cells - skips)
    found = record(operations, alpha={f"{layer}/0": alpha for layer in range(cells)})
    assert kinds(found) == ({"skips"} if warned else set())


def test_entropy_and_gap_are_warned_of() -> None:
    calm = ["conv"] * 4
    assert kinds(record(calm, skip=0.005)) == set()  # the other two are undecided
    settled = record(calm)
    settled["alpha"] = {cell: {"skip": 0.005, "conv": 0.99, "conv2": 0.005} for cell in settled["alpha"]}
    assert kinds(settled) == {"entropy"}
    assert kinds(record(calm, skip=THIRD)) == set()
    assert kinds(record(calm, skip=THIRD), last=True) == {"undecided"}
    assert kinds(record(calm, discrete_f1=0.39)) == set()
    assert kinds(record(calm, discrete_f1=0.39), last=True) == {"gap"}
    assert kinds(record(calm, discrete_f1=0.41), last=True) == set()


def test_explosions_compare_epochs_of_one_phase() -> None:
    warmup = [record(["conv"] * 4, phase="warmup")] * 3
    large = record(["conv"] * 4, losses={"ce": 50.0})
    assert kinds(large, history=warmup) == set()
    assert kinds(large, history=[record(["conv"] * 4)] * 3) == {"loss"}


def test_a_rule_stops_after_its_warning_has_held() -> None:
    skips, calm = record(["skip"] * 4), record(["conv"] * 4)

    def run(epochs: list[dict[str, Any]], rule: str | None) -> list[bool]:
        history: list[dict[str, Any]] = []
        for epoch in epochs:
            monitors = monitor_search(epoch, {}, history, FREE, rule, False)
            history.append({**epoch, "monitors": monitors})
        return [item["monitors"]["stopped"] is not None for item in history]

    warmup = record(["skip"] * 4, phase="warmup")
    assert run([warmup, warmup, skips, skips, calm, skips, skips, skips], "skips") == [False] * 7 + [True]
    assert not any(run([skips] * 5, "none")) and not any(run([skips] * 5, "entropy"))
    old = [{name: value for name, value in skips.items() if name != "monitors"}] * 3  # of an older version
    assert monitor_search(skips, {}, old, FREE, "skips", False)["stopped"] is None


def test_parameter_free_operations_are_found_by_their_parameters() -> None:
    supernet = build_supernet(Space(3, 16, ("conv", "skip", "conv2"), (2,)), 1, (0.5,), (0.5,))
    assert parameter_free(supernet) == {"skip"}
    supernet = build_supernet(Space(3, 16, ("conv",), (2,)), 1, (0.5,), (0.5,))
    assert parameter_free(supernet) == set()


def test_a_stopped_search_is_a_whole_run_and_stays_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bilevel, "parameter_free", lambda supernet: {"skip", "conv", "conv2"})
    stopping = {**TINY, "strategy_config": {"warmup_epochs": 1, "stop_rule": "skips"}, "out": str(tmp_path / "run")}
    config = SearchRequest(**stopping)
    result = run_search(config, ["nas-osr", "search"])
    history = RunFolder.open(tmp_path / "run").read_history()
    first = next(record["epoch"] for record in history if "skips" in record["monitors"]["warnings"])
    assert len(history) == first + STOP_EPOCHS < TINY["epochs"]
    assert result["stopped"] == history[-1]["monitors"]["stopped"]
    assert result["stopped"].startswith("stop_rule skips, 3 epochs in a row: 3 of 3 cells")
    assert "skips" in result["warnings"] and history[-2]["monitors"]["stopped"] is None
    assert set(history[-1]["monitors"]["gradient_norm"]) == {"main", "architecture"}
    assert all(norm > 0 for norm in history[-1]["monitors"]["gradient_norm"].values())
    assert set(history[0]["monitors"]["gradient_norm"]) == {"main"}
    assert not any(name.startswith("gradient_norm") for name in history[-1]["losses"])
    assert {"architecture.json", "architecture.svg"} <= {path.name for path in (tmp_path / "run").iterdir()}

    # killed between the last epoch and the end: going on trains no further
    folder = tmp_path / "run" / "provenance.json"
    provenance = json.loads(folder.read_text())
    folder.write_text(json.dumps({**provenance, "finished": None}))
    before = (tmp_path / "run" / "history.jsonl").read_bytes()
    again = run_search(SearchRequest(**stopping, resume="auto"), ["nas-osr", "search"])
    assert (tmp_path / "run" / "history.jsonl").read_bytes() == before and again == result


def test_a_run_of_an_older_version_goes_on(tmp_path: Path) -> None:
    short = {**TINY, "epochs": 2}
    run_search(SearchRequest(**short, out=str(tmp_path / "run")), ["nas-osr", "search"])
    run = tmp_path / "run"
    provenance = json.loads((run / "provenance.json").read_text())
    (run / "provenance.json").write_text(json.dumps({**provenance, "finished": None}))
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    for line in lines:
        del line["monitors"]
    (run / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = yaml.safe_load((run / "config.yaml").read_text())
    own = config.pop("strategy_config")
    later = ("sampler", "entropy_weight", "unrolled", "discretisation", "settled")
    later += ("partial_channels", "freeze_below", "freeze_window")
    for younger in ("stop_rule", "temperature", "criterion", *later):
        del own[younger]
    for younger in ("deterministic", "jobs", "backend"):
        del config[younger]
    (run / "config.yaml").write_text(yaml.safe_dump({**config, **own}))
    result = run_search(SearchRequest(**short, out=str(run), resume="auto"), ["nas-osr", "search"])
    assert result["stopped"] is None and result["warnings"] == {}
    (run / "provenance.json").write_text(json.dumps({**provenance, "finished": None}))
    short["strategy_config"] = {**short["strategy_config"], "stop_rule": "skips"}
    with pytest.raises(UserError, match=r"strategy_config\.stop_rule was 'none' at the start and is 'skips'"):
        run_search(SearchRequest(**short, out=str(run), resume="auto"), ["nas-osr", "search"])


def test_stop_rules_are_checked() -> None:
    with pytest.raises(UserError, match="stop_rule must be one of skips, entropy, none, got 'eigenvalues'"):
        make_strategy("pas", {"stop_rule": "eigenvalues"}, "tiny")
