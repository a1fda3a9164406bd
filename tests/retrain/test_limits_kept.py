"""A retraining keeps to the limits of the search, whatever width the preset would give it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import nas_osr
from nas_osr.cli.main import main
from nas_osr.retrain.retrain_plan import plan_retrain
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.budgets import network_sizes

SMALL: dict[str, Any] = {
    "protocol": "digits", "preset": "small", "strategy": "random", "strategy_config": {"trials": 1}, "epochs": 1,
    "channels": 8, "limit_per_class": 10, "batch_size": 8, "device": "cpu", "threads": 1, "quiet": True,
}  # fmt: skip
SHAPE = (1, 32, 32)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 8 channels and at most 20,000 parameters; the preset retrains with 64 channels."""
    out = tmp_path_factory.mktemp("limits") / "search"
    nas_osr.search(**SMALL, max_params="20k", max_latency=10**6, out=str(out))
    return out


def retrained(architecture: Path, **options: Any) -> Architecture:
    network = plan_retrain(RetrainRequest(architecture=str(architecture), **options)).parts[0].training.network
    assert isinstance(network, Architecture)
    return network


def parameters(network: Architecture) -> int:
    return network_sizes(network, SHAPE).parameters


def test_the_searched_width_stays_where_the_preset_s_is_above_them(
    found: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of the run folder, and of an exported file, which holds them itself."""
    network = retrained(found)
    assert network.space.channels == 8 and parameters(network) <= 20_000
    above = parameters(network.with_network(64))
    assert (
        f"8 channels, as was searched: at 64 channels the network has {above:,} parameters (max_params 20k), above"
        in caplog.text
    )
    file = tmp_path / "found.json"
    shutil.copy(found / "architecture.json", file)
    assert Architecture.load(file).found["max_params"] == "20k"
    assert retrained(file).space.channels == 8


def test_a_width_that_is_asked_for_is_taken_and_what_it_breaks_is_said(
    found: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert retrained(found, channels=64).space.channels == 64
    assert "parameters (max_params 20k), above the limits of its search" in caplog.text
    caplog.clear()
    assert retrained(found, channels=4).space.channels == 4
    assert "at 4 channels nobody has looked at max_latency 1e+06 of its search" in caplog.text


def test_a_latency_that_was_not_measured_keeps_the_width(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nas_osr.search(**SMALL, max_latency=10**6, out=str(tmp_path / "search"))
    assert retrained(tmp_path / "search").space.channels == 8
    assert "8 channels, as was searched: at 64 channels nobody has looked at max_latency 1e+06" in caplog.text


def test_without_limits_the_preset_decides(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nas_osr.search(**SMALL, out=str(tmp_path / "search"))
    assert retrained(tmp_path / "search").space.channels == 64
    assert "max_" not in caplog.text


def test_a_broken_limit_is_one_line(found: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "run"
    shutil.copytree(found, broken)
    config = broken / "config.yaml"
    config.write_text(config.read_text().replace("max_params: 20k", "max_params: lots"))
    assert main(["retrain", str(broken), "--dry_run"]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if "lots" in line]
    assert str(config) in line and "max_params must be a number such as 300k" in line


def test_a_stem_that_is_asked_for_and_breaks_one_is_said(
    found: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At the width that was searched as well."""
    run = tmp_path / "run"
    shutil.copytree(found, run)
    own = Architecture.load(run / "architecture.json")
    limit = parameters(own)
    other = max(("strided", "pooled", "whitened"), key=lambda stem: parameters(own.with_network(stem=stem)))
    assert parameters(own.with_network(stem=other)) > limit
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("max_params: 20k", f"max_params: {limit}"))
    assert retrained(run, stem=other).space.channels == 8
    assert f"at 8 channels the network has {parameters(own.with_network(stem=other)):,} parameters" in caplog.text
