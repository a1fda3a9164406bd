"""What is unknown and what is tested stays shut until the rule is fitted and its threshold is set."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import nas_osr.retrain.evaluate
import nas_osr.retrain.run
from nas_osr.errors import UserError
from nas_osr.outputs import Outputs
from nas_osr.retrain.evaluate import fit_rules, run_evaluate
from nas_osr.retrain.reopen import reopen
from nas_osr.retrain.retrain_request import EvaluateRequest, ReopenOptions, RetrainRequest
from nas_osr.retrain.run import run_retrain
from nas_osr.runs.checkpoints import read_checkpoint
from nas_osr.runs.run_folder import RunFolder
from nas_osr.scoring import make_rule

ROOT = Path(__file__).parents[2]
KNOWN = ("ant", "bee", "cat")
TINY: dict[str, Any] = {
    "architecture": "random:0", "protocol": "folder", "known": list(KNOWN), "preset": "tiny", "channels": 16,
    "epochs": 1, "batch_size": 8, "objective": "cross_entropy", "device": "cpu", "threads": 1, "bootstrap": 2,
    "quiet": True,
}  # fmt: skip


class OpenedTest(Exception):
    """In the place of the test."""


def write_images(root: Path, marked: bool) -> Path:
    """Known training images; every test file and every unknown one is another image, or no image at all if marked."""
    generator, other = np.random.default_rng(0), np.random.default_rng(1)
    for part in ("train", "test"):
        for name in (*KNOWN, "eel", "fox"):
            folder = root / part / name
            folder.mkdir(parents=True, exist_ok=True)
            for index in range(20 if part == "train" else 4):
                file = folder / f"{index:02}.png"
                secret = part == "test" or name not in KNOWN
                pixels = (other if secret else generator).integers(0, 256, (32, 32, 3), dtype=np.uint8)
                if secret and marked:
                    file.write_bytes(b"marker: this must not be opened")
                else:
                    Image.fromarray(pixels).save(file)
    return root


def stop_at_the_test(monkeypatch: pytest.MonkeyPatch, module: Any) -> list[Any]:
    """Let everything before the test happen, and nothing after; what the rule's threshold was then."""
    thresholds: list[Any] = []

    def evaluate_test(rules: Any, *_: Any, **__: Any) -> Any:
        thresholds.extend(rule.threshold for rule in rules)
        raise OpenedTest

    monkeypatch.setattr(module, "evaluate_test", evaluate_test)
    return thresholds


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A retraining whose test images are images."""
    root = tmp_path_factory.mktemp("honest")
    images = write_images(root / "images", marked=False)
    run_retrain(RetrainRequest(**TINY, data_dir=str(images), out=str(root / "run")), ["nas-osr", "retrain"])
    return root


@pytest.mark.parametrize("rule", ["mls", "cap"])
def test_retraining_and_threshold_read_no_test_file_and_no_unknown(
    rule: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked = write_images(tmp_path / "images", marked=True)
    config = {**TINY, "rule": rule, "data_dir": str(marked)}
    if rule == "cap":
        config |= {"objective": "vae_contrastive"}
    with monkeypatch.context() as patched:
        thresholds = stop_at_the_test(patched, nas_osr.retrain.run)
        with pytest.raises(OpenedTest):
            run_retrain(RetrainRequest(**config, out=str(tmp_path / "run")), ["nas-osr", "retrain"])
    assert len(thresholds) == 1 and np.isfinite(thresholds[0])
    # the marker is noticed where it may be opened
    with pytest.raises(UserError, match=r"images/test: 12 files cannot be read"):
        run_retrain(RetrainRequest(**config, out=str(tmp_path / "other")), ["nas-osr", "retrain"])
    if rule == "mls":  # and has changed no bit of the weights, nor the threshold
        result = json.loads((whole / "run" / "split-0" / "metrics.json").read_text())
        assert result["rule"] == rule and result["threshold"] == thresholds[0]
        once, again = (read_checkpoint(path / "run" / "split-0" / "checkpoint.pt") for path in (whole, tmp_path))
        for name, weight in once["learner"].items():
            assert torch.equal(weight, again["learner"][name]), name


def test_training_outputs_are_computed_for_rules_that_learn_only(whole: Path) -> None:
    opened = reopen(RunFolder.open(whole / "run" / "split-0"), ReopenOptions(device="cpu", threads=1))
    seen: list[int] = []

    class Counting:
        objective, mirrored = opened.learner.objective, False

        @staticmethod
        def infer(images: torch.Tensor) -> Outputs:
            seen.append(len(images))
            return opened.learner.infer(images)

    train, validation = len(opened.data.train), len(opened.data.validation)
    for names, expected in ((["mls", "energy"], validation), (["mls", "openmax"], train + validation)):
        seen.clear()
        rules = [make_rule(name, {}) for name in names]
        fit_rules(rules, Counting(), opened.data, "cpu")
        assert sum(seen) == expected and all(rule.threshold is not None for rule in rules)


def test_evaluating_again_sets_the_threshold_without_the_test(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked = write_images(tmp_path / "images", marked=True)
    request = EvaluateRequest(run=str(whole / "run"), data_dir=str(marked), device="cpu", threads=1, bootstrap=0)
    with monkeypatch.context() as patched:
        thresholds = stop_at_the_test(patched, nas_osr.retrain.evaluate)
        with pytest.raises(OpenedTest):
            run_evaluate(request)
    result = json.loads((whole / "run" / "split-0" / "metrics.json").read_text())
    assert thresholds == [pytest.approx(result["threshold"])]
    with pytest.raises(UserError, match=r"images/test: 12 files cannot be read"):
        run_evaluate(request)


def test_a_rehearsal_opens_nothing_but_training_images_of_known_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends, with figures, where every other file would stop it; and again from its folder."""
    marked = write_images(tmp_path / "images", marked=True)
    config: dict[str, Any] = {**TINY, "data_dir": str(marked), "pseudo_unknown": ["bee"], "quiet": False}
    summary = run_retrain(RetrainRequest(**config, out=str(tmp_path / "run")), ["nas-osr", "retrain"])
    assert "split-0  evaluating on training images that play the test\n" in capsys.readouterr().err
    part = tmp_path / "run" / "split-0"
    result = json.loads((part / "metrics.json").read_text())
    assert result["protocol"]["family"] == "rehearsal" and result["protocol"]["unknown"] == ["bee"]
    assert result["test_images"] == {"known": 8, "unknown": 4}
    request = EvaluateRequest(run=str(part), device="cpu", threads=1, bootstrap=0)
    assert run_evaluate(request)[0]["metrics"] == pytest.approx(summary["parts"]["split-0"])
    with pytest.raises(UserError, match="a rehearsal opens no test images"):
        run_evaluate(EvaluateRequest(run=str(part), unknown="digits"))
    # what is unknown in truth cannot be learned from either
    config |= {"objective": "confidence", "objective_config": {"source": "outliers"}, "outliers": "folder"}
    with pytest.raises(UserError, match="every class of folder is known or unknown"):
        run_retrain(RetrainRequest(**config, out=str(tmp_path / "other")), ["nas-osr", "retrain"])
    assert not (tmp_path / "other").exists()


def test_the_test_images_are_asked_for_in_few_places() -> None:
    """Only the evaluation, its fingerprint, analyses and figures of what is finished, and tables open test images."""
    places = set()
    for package in ("nas_osr", "search_spaces", "strategies", "retrain"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "test":
                    places.add(path.relative_to(ROOT).as_posix())
    assert places == {
        "nas_osr/data/dataset.py",  # OpenSetData.test_fingerprint
        "retrain/evaluate.py",
        "retrain/embeddings.py",  # evaluate --embeddings
        "nas_osr/deploy/quantisation.py",  # what int8 costs a finished retraining
        "retrain/analysis/frozen_network.py",
        "retrain/analysis/corruption.py",
        "retrain/analysis/counterfactuals.py",
        "nas_osr/reports/thumbnails.py",  # plot mistakes: of an evaluation that is there
        "strategies/table_training.py",  # the true columns of a table, which no strategy sees
    }
