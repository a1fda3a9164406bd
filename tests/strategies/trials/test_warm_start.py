"""First trials that are the best of many draws by a zero-cost score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import nas_osr
from nas_osr.data.batches import to_float
from nas_osr.runs.run_folder import RunFolder
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.architectures.canonical import fingerprint
from nas_osr.search_spaces.budgets import network_sizes
from nas_osr.search_spaces.network import DiscreteNetwork
from nas_osr.search_spaces.zero_cost import zero_cost
from nas_osr.seeds import derive_seed
from nas_osr.strategies.search_plan import plan_search
from nas_osr.strategies.search_request import SearchRequest
from nas_osr.strategies.trials import warm_start
from nas_osr.strategies.trials.warm_start import draw_different, rank, score_untrained

OPTIONS: dict[str, Any] = {
    "protocol": "digits", "preset": "tiny", "layers": 4, "epochs": 1, "batch_size": 8, "seed": 3, "limit_per_class": 20,
    "objective": "cross_entropy", "device": "cpu", "threads": 1, "quiet": True, "strategy": "evolution",
}  # fmt: skip
OWN = {"trials": 3, "population": 3, "tournament": 1, "warm_start": "macs", "warm_draws": 40, "warm_trials": 2}


def test_rank() -> None:
    assert rank([1.0, None, 3.0, 1.0, -5.0]) == [2, 0, 3, 4, 1]


@pytest.mark.parametrize("name", ["synflow", "naswot", "zico"])
def test_scores_are_those_of_fresh_networks_on_kept_images(name: str) -> None:
    plan = plan_search(SearchRequest(**{**OPTIONS, "strategy_config": {**OWN, "warm_start": name}}))
    data = plan.data.load()
    drawn = draw_different(plan)[:2]
    found = score_untrained(plan, drawn, data, torch.device("cpu"))
    sample = plan.divide(data).fit_sample
    for architecture, score in zip(drawn, found, strict=True):
        torch.manual_seed(derive_seed(plan.seed, "warm start"))
        network = plan.make_encoder(DiscreteNetwork, architecture)
        assert score == zero_cost(name, network, to_float(sample.images[:64]), sample.labels[:64])


def test_a_search_tries_the_best_of_the_draws_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nas_osr.search(**OPTIONS, strategy_config=OWN, max_params="30k", out=str(tmp_path / "run"))
    run = RunFolder.open(tmp_path / "run")
    plan = plan_search(SearchRequest(**{**OPTIONS, "strategy_config": OWN, "max_params": "30k"}))
    drawn = draw_different(plan)
    assert len({fingerprint(one) for one in drawn}) == len(drawn) > 10 and all(map(plan.budget.fits, drawn))
    macs = [network_sizes(one, (1, 32, 32)).macs for one in drawn]
    history = [Architecture.from_description(plan.space, record) for record in run.read_history()]
    tried = [network_sizes(one, (1, 32, 32)).macs for one in history]
    assert tried[:2] == sorted(macs, reverse=True)[:2] and len(tried) == 3
    kept = json.loads((run.path / "warm_start.json").read_text())
    assert kept["by"] == "macs" and [row["score"] for row in kept["first"]] == tried[:2]
    # whoever goes on takes what is kept
    monkeypatch.setattr(warm_start, "score_untrained", None)
    longer = {**OPTIONS, "strategy_config": OWN, "max_params": "30k", "out": str(run.path), "resume": "auto"}
    assert (
        nas_osr.search(**longer)["epoch"] == json.loads((run.path / "architecture.json").read_text())["found"]["epoch"]
    )
