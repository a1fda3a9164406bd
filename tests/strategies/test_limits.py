"""Limits on networks: every strategy keeps to them, and what cannot be kept is refused at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import nas_osr
from nas_osr.errors import UserError
from nas_osr.files.text import read_object
from nas_osr.runs.run_folder import RunFolder
from nas_osr.search_spaces.amounts import parse_amount
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.architectures.sampling import sample_architecture
from nas_osr.search_spaces.budgets import network_sizes
from nas_osr.search_spaces.latencies import read_latencies
from nas_osr.search_spaces.sizes import sizes_of
from nas_osr.search_spaces.space import Space
from nas_osr.strategies import latency
from nas_osr.strategies.trials.random import Random
from nas_osr.strategies.trials.trial import TrialRunner

COMMON: dict[str, Any] = {
    "protocol": "digits", "preset": "tiny", "epochs": 2, "batch_size": 4, "seed": 1, "limit_per_class": 16,
    "objective": "cross_entropy", "device": "cpu", "threads": 1, "quiet": True,
}  # fmt: skip
SHAPE = (1, 32, 32)


@pytest.mark.parametrize(
    ("strategy", "config"),
    [
        ("pas", {"warmup_epochs": 1}),
        ("evolution", {"trials": 5, "population": 2, "tournament": 1}),
        ("single_path", {"trials": 3, "population": 2, "tournament": 1}),
        ("predictor", {"trials": 5, "initial": 3}),
        pytest.param("random", {"trials": 3}, marks=pytest.mark.slow),
        pytest.param("halving", {"trials": 4, "factor": 2}, marks=pytest.mark.slow),
        pytest.param("nsga", {"trials": 5, "population": 2}, marks=pytest.mark.slow),
    ],
)
def test_no_network_is_above_the_budget(strategy: str, config: dict[str, Any], tmp_path: Path) -> None:
    limits = {"max_params": "20k", "max_macs": 1_000_000}
    nas_osr.search(**COMMON, **limits, strategy=strategy, strategy_config=config, out=str(tmp_path / "run"))
    run = RunFolder.open(tmp_path / "run")
    space = Architecture.load(run.path / "architecture.json").space
    assert (space.layers, space.channels) == (4, 16)  # in which most networks are larger
    for record in run.read_history():
        sizes = network_sizes(Architecture.from_description(space, record), SHAPE)
        assert sizes.parameters <= 20_000 and sizes.macs <= 1_000_000
    assert run.read_config()["max_params"] == "20k"


def test_what_nothing_fits_is_told_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"at most 1,000 parameters: the nearest has [\d,]+ parameters \(0:"):
        nas_osr.search(**COMMON, max_params="1k", out=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "amount"), [("300k", 300_000), ("300K", 300_000), ("1.5M", 1_500_000), ("2G", 2 * 10**9), (7, 7)]
)
def test_amounts(text: int | str, amount: int) -> None:
    assert parse_amount(text, "max_params") == amount


@pytest.mark.parametrize("text", ["", "k", "many", "-3M", "nan", "0", "1e400", "3 M B"])
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(UserError, match="max_params must be a number such as 300k"):
        parse_amount(text, "max_params")


def test_a_strategy_that_does_not_keep_to_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = sample_architecture(Space(layers=4, channels=16), 2)
    assert network_sizes(large, SHAPE).parameters > 20_000
    monkeypatch.setattr(Random, "propose", lambda self, plan, trial, tried: large)
    with pytest.raises(UserError, match="proposed a network above the budget"):
        nas_osr.search(**COMMON, max_params=20_000, strategy="random", out=str(tmp_path / "run"))


@pytest.mark.parametrize(
    ("strategy", "config"),
    [
        pytest.param("pas", {"warmup_epochs": 1}, marks=pytest.mark.slow),
        ("nsga", {"trials": 4, "population": 2, "against": "latency"}),
    ],
)
def test_latency_and_memory(strategy: str, config: dict[str, Any], tmp_path: Path) -> None:
    space = Space(layers=4, channels=16)
    shares = [network_sizes(sample_architecture(space, seed), SHAPE).memory for seed in range(20)]
    limits = {"max_memory": sorted(shares)[10]}
    options = {**COMMON, **limits, "strategy": strategy, "strategy_config": config}
    first = tmp_path / "first"
    nas_osr.search(**options, max_latency=1e6, out=str(first))  # which all keep
    table = read_latencies(first)
    times = [network_sizes(sample_architecture(space, seed), SHAPE, table).nanoseconds for seed in range(20)]
    limit = table.milliseconds(sorted(times)[8])
    outs = [tmp_path / name for name in ("second", "third")[: 2 if strategy == "pas" else 1]]
    for out in outs:
        nas_osr.search(**options, max_latency=limit, latency_table=first, out=str(out))
    for record in RunFolder.open(outs[0]).read_history():
        sizes = network_sizes(Architecture.from_description(space, record), SHAPE, table)
        assert sizes.memory <= limits["max_memory"] and table.milliseconds(sizes.nanoseconds) <= limit
        if strategy == "nsga":
            assert (record["memory"], record["latency"]) == (sizes.memory, table.milliseconds(sizes.nanoseconds))
    # equal searches by one table leave equal bytes, and say in the file and the picture what was found
    for name in ("history.jsonl", "architecture.json", "architecture.svg"):
        assert (outs[0] / name).read_bytes() == (outs[-1] / name).read_bytes()
    found = Architecture.load(outs[0] / "architecture.json")
    assert found.found["latency"]["milliseconds"] <= limit and f"ms an image on {table.device}" in sizes_of(found)
    written = read_object(outs[0] / "latency.json")
    assert written["nanoseconds"] == dict(table.nanoseconds) and written["found"]["milliseconds"] > 0
    assert written["found"]["by_the_table"] == found.found["latency"]["milliseconds"]


def test_latency_is_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A search that goes on takes the table of its run; where nothing is quick enough nothing is written."""
    options = {**COMMON, "strategy": "random", "strategy_config": {"trials": 2}, "out": str(tmp_path / "run")}
    with pytest.raises(UserError, match=r"at most 1e-06 ms an image: the nearest has [\d.]+ ms an image \(0:"):
        nas_osr.search(**options, max_latency=1e-6)
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(TrialRunner, "run", stop)
    with pytest.raises(KeyboardInterrupt):
        nas_osr.search(**options, max_latency=1000)
    before = read_latencies(tmp_path / "run")
    monkeypatch.undo()
    monkeypatch.setattr(latency, "measure_latencies", stop)
    monkeypatch.setattr(latency, "measure_network", lambda *given: 2000.0)
    nas_osr.search(**{**options, "quiet": False}, max_latency=1000, resume="auto")
    assert read_latencies(tmp_path / "run") == before
    assert "2e+03 ms an image measured" in (said := capsys.readouterr().err)
    assert "the limit 1e+03: it is above, and --max_latency " in said  # that the whole network is slower is not silent


def stop(*arguments: Any) -> None:
    raise KeyboardInterrupt


def test_tables_of_latencies(tmp_path: Path) -> None:
    options = {**COMMON, "out": str(tmp_path / "run"), "latency_table": tmp_path}
    with pytest.raises(UserError, match="nothing asks for latencies"):
        nas_osr.search(**options)
    for value, message in (("3", "of mine, has no .*: it is of another space"), ('"quick"', "not a table of latenc")):
        (tmp_path / "latency.json").write_text(f'{{"device": "mine", "batch": 2, "nanoseconds": {{"conv": {value}}}}}')
        with pytest.raises(UserError, match=message):
            nas_osr.search(**options, max_latency=1, strategy_config={"warmup_epochs": 1})
