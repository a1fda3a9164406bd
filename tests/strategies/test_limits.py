"""`--max_params` and `--max_macs`: every strategy keeps to them, and what cannot be kept is refused at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import nas_osr
from nas_osr.errors import UserError
from nas_osr.runs.run_folder import RunFolder
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.architectures.sampling import sample_architecture
from nas_osr.search_spaces.budgets import network_sizes
from nas_osr.search_spaces.space import Space
from nas_osr.strategies.search_plan import parse_amount
from nas_osr.strategies.trials.random import Random

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
    with pytest.raises(UserError, match=r"at most 1,000 parameters \(the least that any has: [\d,]+\)"):
        nas_osr.search(**COMMON, max_params="1k", out=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("text", "amount"), [("300k", 300_000), ("1.5M", 1_500_000), ("2G", 2 * 10**9), (7, 7)])
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
