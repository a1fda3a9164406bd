"""Whole searches into run folders: what they leave, what they may read, what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from nas_osr.cli.options import parse_options
from nas_osr.configuration import make_request
from nas_osr.errors import UserError
from nas_osr.objectives.gmvae import GMVAE
from nas_osr.runs.run_folder import RunFolder
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.strategies import STRATEGIES, strategy_class
from nas_osr.strategies.run import run_search
from nas_osr.strategies.search_plan import plan_search
from nas_osr.strategies.search_request import SearchRequest

TINY: dict[str, Any] = {
    "protocol": "digits", "preset": "tiny", "layers": 3, "epochs": 2, "batch_size": 16,
    "strategy_config": {"warmup_epochs": 1}, "limit_per_class": 40, "device": "cpu", "threads": 1, "quiet": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("search") / "run"
    return out, run_search(SearchRequest(**TINY, out=str(out)), ["nas-osr", "search"])


def test_run_folder_is_complete(finished: tuple[Path, dict[str, Any]]) -> None:
    out, result = finished
    names = {path.name for path in out.iterdir()}
    assert {
        "config.yaml", "provenance.json", "history.jsonl", "timing.jsonl", "checkpoint.pt", "architecture.json",
        "architecture.graphml", "architecture.gv", "architecture.svg",
    } <= names  # fmt: skip
    architecture = Architecture.load(out / "architecture.json")
    assert architecture.found["F1"] == result["f1"] and architecture.found["protocol"] == "digits"
    history = RunFolder.open(out).read_history()
    assert [record["phase"] for record in history] == ["warmup", "search"]
    assert set(history[1]["losses"]) == {
        prefix + term
        for prefix in ("", "architecture/")
        for term in ("ce", "kl_class", "kl_instance", "reconstruction", "contrastive")
    }
    assert "seconds" not in (out / "history.jsonl").read_text()


def test_config_alone_repeats_the_search(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    out, _ = finished
    config = RunFolder.open(out).read_config()
    run_search(SearchRequest(**config, out=str(tmp_path / "again"), quiet=True), ["nas-osr", "search"])
    for name in ("architecture.json", "history.jsonl", "config.yaml", "architecture.svg"):
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes(), name


def test_finished_run_is_refused_unless_told_otherwise(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    out, result = finished
    with pytest.raises(UserError, match="finished run"):
        run_search(SearchRequest(**TINY, out=str(out)), ["nas-osr"])
    with pytest.raises(UserError, match="finished run"):
        run_search(SearchRequest(**TINY, out=str(out), dry_run=True), ["nas-osr"])
    assert run_search(SearchRequest(**TINY, out=str(out), resume="auto"), ["nas-osr"])["f1"] == result["f1"]
    before = (out / "history.jsonl").read_bytes()
    run_search(SearchRequest(**TINY, out=str(out), overwrite=True), ["again"])
    assert RunFolder.open(out).read_provenance()["command"] == ["again"]  # it has run
    assert (out / "history.jsonl").read_bytes() == before


@pytest.fixture
def marked_folder(tmp_path: Path) -> Path:
    """Image folders in which every test file and every file of a true unknown class is no image at all."""
    generator = np.random.default_rng(0)
    root = tmp_path / "images"
    for part in ("train", "test"):
        for name in ("ant", "bee", "cat", "dog", "eel", "fox"):
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(24):
                file = folder / f"{index:02}.png"
                if part == "test" or name in ("eel", "fox"):
                    file.write_bytes(b"marker: this must not be opened")
                else:
                    Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file)
    return root


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_search_reads_no_test_file_and_no_true_unknown(strategy: str, marked_folder: Path, tmp_path: Path) -> None:
    own = {"trials": 1} if strategy_class(strategy).tries else {"warmup_epochs": 1}
    settings = {
        **TINY,
        "strategy": strategy,
        "strategy_config": own,
        "protocol": "folder",
        "known": ["ant", "bee", "cat", "dog"],
        "data_dir": str(marked_folder),
    }
    settings |= {"batch_size": 4, "limit_per_class": None}
    result = run_search(SearchRequest(**settings, out=str(tmp_path / "run")), ["nas-osr"])
    assert 0.0 <= result["f1"] <= 1.0
    # the marker is noticed where it may be opened
    settings["known"] = ["ant", "bee", "cat", "eel"]
    with pytest.raises(UserError, match=r"\.png"):
        run_search(SearchRequest(**settings, out=str(tmp_path / "other")), ["nas-osr"])
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": "cifar11"}, "cifar11"),
        ({"known": [0, 1, 2, 10]}, "10"),
        ({"split": 7}, "split"),
        ({"family": "osrci"}, "osrci"),
        ({"strategy": "annealing"}, "unknown strategy"),
        ({"objective": "hinge"}, "unknown objective"),
        ({"rule": "oracle"}, "unknown scoring rule"),
        ({"preset": "huge"}, "unknown preset"),
        ({"operations": ["skip", "pool"]}, "unknown operation 'pool': choose from skip, conv, conv2"),
        ({"stem": "dense"}, "unknown stem 'dense': choose from strided, pooled"),
        ({"strategy_config": {"warmup_epochs": 2}}, "warmup_epochs must lie"),
        ({"strategy_config": {"trials": 2}}, "strategy pas has no setting 'trials'"),
        ({"strategy": "random", "strategy_config": {"trials": 0}}, "trials must be greater than 0"),
        ({"strategy": "darts", "pseudo_unknown": ["2"]}, "darts keeps all known classes"),
        ({"strategy_config": {"order": "both"}}, "order must be one of"),
        ({"augmentation": "mixup"}, "mixup"),
        ({"pseudo_unknown": [0]}, "0 is not a known class of digits; those are 2, 4, 5, 9, 8, 3"),
        ({"batch_size": 500}, "batch_size 500 is larger than half"),
        ({"device": "tpu"}, "tpu"),
        ({"precision": "8"}, "precision must be"),
        ({"objective_config": {"ce_weight": -1}}, "ce_weight"),
        (
            {"objective": "gmvae", "rule": None, "objective_config": {"subclusters": [1, 2]}},
            "lists 2 classes, there are 6",
        ),
        ({"objective": "confidence", "rule": None, "objective_config": {"source": "outliers"}}, "--outliers"),
        ({"protocol": "cifar10", "data_dir": "/nowhere"}, "/nowhere"),
        ({"protocol": "cifar10", "data_dir": None}, "NAS_OSR_DATA"),
    ],
)
def test_bad_requests_are_refused_in_one_line_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.delenv("NAS_OSR_DATA", raising=False)
    with pytest.raises(UserError) as refused:
        run_search(SearchRequest(**{**TINY, "out": str(tmp_path / "run"), **changes}), ["nas-osr"])
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_heads_that_cannot_be_made_are_refused_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> None:
        raise UserError("the network has no such map")

    monkeypatch.setattr(GMVAE, "__init__", refuse)
    settings = {**TINY, "objective": "gmvae", "rule": None, "out": str(tmp_path / "run")}
    with pytest.raises(UserError, match="no such map"):
        run_search(SearchRequest(**settings), ["nas-osr"])
    assert not (tmp_path / "run").exists()


def test_settings_by_class_follow_the_kept_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    build = GMVAE.__init__

    def spy(self: GMVAE, *arguments: Any) -> None:
        seen.append(arguments[-1].subclusters)
        build(self, *arguments)

    monkeypatch.setattr(GMVAE, "__init__", spy)
    changes = {
        "objective": "gmvae",
        "rule": None,
        "objective_config": {"subclusters": [1, 2, 1, 1, 3, 1], "decoder_channels": 16},
        "pseudo_unknown": ["2", "9"],
    }
    run_search(SearchRequest(**{**TINY, "out": str(tmp_path / "run"), **changes}), ["nas-osr"])
    assert set(seen) == {(2, 1, 3, 1)}


def test_rule_that_the_objective_cannot_feed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nas_osr.scoring.cap import CAP

    monkeypatch.setattr(CAP, "needs", frozenset({"distances"}))
    with pytest.raises(UserError, match="needs distances, which objective 'vae_contrastive' does not provide"):
        run_search(SearchRequest(**TINY, out=str(tmp_path / "run")), ["nas-osr"])


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    plan = run_search(SearchRequest(**TINY, out=str(tmp_path / "run"), dry_run=True), ["nas-osr"])
    assert plan["would_search"]["objective_config"]["ce_weight"] == 30.0
    assert json.dumps(plan) and not (tmp_path / "run").exists()


def test_options_of_earlier_versions_are_the_strategys_own(tmp_path: Path) -> None:
    old = {
        "protocol": "digits",
        "warmup_epochs": 4,
        "architecture_lr": 0.01,
        "order": "weights_first",
        "stop_rule": None,
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(old))
    arguments = ["--config", str(tmp_path / "config.yaml"), "--warmup_epochs", "3", "--strategy_config.stop_rule=skips"]
    expected = {"warmup_epochs": 3, "architecture_lr": 0.01, "order": "weights_first", "stop_rule": "skips"}
    values = parse_options(SearchRequest, arguments, "search")
    assert values == {"protocol": "digits", "strategy_config": expected}
    assert make_request(SearchRequest, {**old, "stop_rule": "skips"}, "search").strategy_config["stop_rule"] == "skips"
    with pytest.raises(UserError, match="strategy random has no setting 'architecture_lr': it has trials"):
        plan_search(make_request(SearchRequest, {**old, "strategy": "random"}, "search"))
