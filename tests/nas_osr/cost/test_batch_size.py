"""`--batch_size auto`: the batch that fits, the learning rates for it, and both written down as numbers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nas_osr import search, train
from nas_osr.cost import batch_size as module
from nas_osr.cost.batch_size import pick_batch, scaled_rate
from nas_osr.errors import UserError
from nas_osr.runs.run_folder import RunFolder
from nas_osr.strategies.search_plan import plan_search
from nas_osr.strategies.search_request import SearchRequest

SHORT: dict[str, Any] = {
    "protocol": "digits", "preset": "tiny", "limit_per_class": 20, "threads": 1, "quiet": True, "epochs": 2,
}  # fmt: skip

PLANNED = {**SHORT, "epochs": 30}  # for the warm-up of the preset


def memory_of(batch: int) -> float:
    """What the search of the tests below needs with steps of so many images, in bytes."""
    plan = plan_search(SearchRequest(**PLANNED, batch_size=batch))
    return float(sum(plan.strategy.cost(plan, plan.machine.open()).count(flops=False)[1].values()))


@pytest.mark.parametrize(
    ("left", "images", "expected"),
    [
        (1.3, 10**6, 128),  # of the memory that the largest needs
        (1.2, 10**6, 64),
        (None, 10**6, 128),  # not known
        (1.3, 64 * 16, 64),  # too few images for 16 steps of the largest
        (1.3, 40, 32),
        (1e-3, 10**6, 32),  # `check_fits` says what is wrong then
    ],
)
def test_the_largest_that_fits(
    monkeypatch: pytest.MonkeyPatch, left: float | None, images: int, expected: int, caplog: pytest.LogCaptureFixture
) -> None:
    available = None if left is None else int(left * memory_of(128))
    monkeypatch.setattr(module, "available_memory", lambda device: available)
    plan = plan_search(SearchRequest(**PLANNED))
    fabric = plan.machine.open()
    cost = plan.strategy.cost(plan, fabric)
    cost = module.replace(cost, about={**cost.about, "training_images": images})
    card: Any = SimpleNamespace(device=SimpleNamespace(type="cuda"))  # stands in for one: steps run on the CPU
    assert pick_batch(32, card, lambda fabric: cost) == expected
    assert f"--batch_size auto: {expected} (the preset's is 32)" in caplog.text


def test_rates_follow_the_batch() -> None:
    assert scaled_rate(0.1, "sgd", 256, 64) == pytest.approx(0.4)
    assert scaled_rate(0.1, "adam", 256, 64) == pytest.approx(0.2)


def test_a_cpu_takes_the_presets_and_says_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    search(**SHORT, batch_size="auto", strategy_config={"warmup_epochs": 1}, out=tmp_path)
    assert "--batch_size auto: 32, the preset's: on a CPU a larger batch is no quicker" in caplog.text
    config = RunFolder.open(tmp_path).read_config()
    assert (config["batch_size"], config["weight_lr"]) == (32, SearchRequest.weight_lr)


@pytest.mark.parametrize("command", ["search", "retrain"])
def test_a_run_goes_on_with_what_was_picked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """A card picks a batch, with the rates for it; another one goes on with the same numbers."""
    batch = 8 if command == "search" else 128  # of 32 and 64
    picked = [batch]
    for place in ("nas_osr.strategies.run", "nas_osr.retrain.run"):
        monkeypatch.setattr(f"{place}.pick_batch", lambda usual, fabric, make: picked.pop())
    own = {"strategy_config": {"warmup_epochs": 1}} if command == "search" else {"architecture": "random:0"}
    run = partial(search if command == "search" else train, **SHORT, **own, out=tmp_path)
    if command == "retrain":
        run = partial(run, recipe="adam", objective="cross_entropy", batch_size="auto")
    else:
        run = partial(run, batch_size="auto")
    run()
    config = RunFolder.open(tmp_path).read_config()
    assert config["batch_size"] == batch and not picked
    if command == "search":
        assert config["weight_lr"] == pytest.approx(5e-4 / 2)
        assert config["strategy_config"]["architecture_lr"] == pytest.approx(6e-2 / 2)
    else:
        assert config["recipe_config"]["learning_rate"] == pytest.approx(2**0.5 * 1e-3)
    before = (tmp_path / "config.yaml").read_bytes()
    run(resume="auto")
    assert (tmp_path / "config.yaml").read_bytes() == before


@pytest.mark.parametrize("value", ["much", 0, -1, 1.5])
def test_what_is_no_batch(value: Any) -> None:
    with pytest.raises(UserError, match="batch_size must"):
        SearchRequest(batch_size=value)


def test_torch_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_search(SearchRequest(**PLANNED))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    card: Any = SimpleNamespace(device=SimpleNamespace(type="cuda"))
    monkeypatch.setattr(module, "available_memory", lambda device: None)
    pick_batch(32, card, lambda fabric: plan.strategy.cost(plan, plan.machine.open()))
    assert torch.equal(torch.get_rng_state(), before)
