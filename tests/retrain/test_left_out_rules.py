"""Of several rules one that cannot be fitted is left out, and all in a list are every shipped one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nas_osr.cli.evaluate import columns_of
from nas_osr.cli.main import main
from nas_osr.errors import UserError
from nas_osr.objectives import objective_class
from nas_osr.retrain.evaluate import run_evaluate
from nas_osr.retrain.model_reading import open_model
from nas_osr.retrain.retrain_request import EvaluateRequest, RetrainRequest
from nas_osr.retrain.run import run_retrain
from nas_osr.scoring import list_rules, rules_for

CPU: dict[str, Any] = {"device": "cpu", "threads": 1, "bootstrap": 0}
# fewer than the 50 training images that pytorch_ood.KNN takes to find the 50th nearest of
TINY: dict[str, Any] = {
    "protocol": "digits", "preset": "tiny", "limit_per_class": 6, "epochs": 1, "batch_size": 16, "quiet": True,
    "network": "plain:width=4", **CPU,
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("left_out") / "run"
    run_retrain(RetrainRequest(**TINY, objective="cross_entropy", rule="mls", out=str(out)), ["x"])
    return out


def test_the_others_are_evaluated_and_the_exit_code_tells(
    finished: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    command = ["evaluate", str(finished), "--device", "cpu", "--threads", "1", "--bootstrap", "0", "--json"]
    assert main([*command, "--rule", "pytorch_ood.KNN,mls,energy"]) == 2
    captured = capsys.readouterr()
    assert [result["rule"] for result in json.loads(captured.out)] == ["mls", "energy"]
    assert "split-0: left out: scoring rule 'pytorch_ood.KNN': it cannot be fitted: k=50 exceeds" in caplog.text
    assert captured.err.splitlines()[-1].endswith(
        "pytorch_ood.KNN left out, as said above; the other rules are evaluated"
    )
    assert (finished / "split-0" / "metrics-energy.json").exists()
    assert main([*command, "--rule", "mls,energy"]) == 0


def test_one_of_all_that_cannot_be_fitted_is_no_mistake(
    finished: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from nas_osr.scoring.mahalanobis import Mahalanobis
    from nas_osr.scoring.standardised import SML

    def refuse(self: Any, *_: Any) -> None:
        raise UserError(f"{self.name} cannot")

    monkeypatch.setattr(Mahalanobis, "fit", refuse)
    monkeypatch.setattr(SML, "scores", refuse)  # so that it fails later
    every = rules_for(objective_class("cross_entropy"))
    assert (
        main(["evaluate", str(finished), "--device", "cpu", "--threads", "1", "--bootstrap", "0", "--rule", "all"]) == 0
    )
    assert "left out: mahalanobis cannot" in caplog.text and "left out: sml cannot" in caplog.text
    results = run_evaluate(EvaluateRequest(run=str(finished), rule="all,pytorch_ood.SHE", **CPU))
    kept = [name for name in every if name not in ("mahalanobis", "relative_mahalanobis", "sml")]
    assert [result["rule"] for result in results if result["rule"] in kept] == kept
    with pytest.raises(UserError, match="^mahalanobis cannot$"):
        run_evaluate(EvaluateRequest(run=str(finished), rule="mahalanobis,sml", **CPU))


def test_all_stands_in_a_list() -> None:
    every = rules_for(objective_class("supcon"))
    assert list_rules("all", objective_class("supcon")) == every
    assert list_rules("all, pytorch_ood.RMD,knn", objective_class("supcon")) == [*every, "pytorch_ood.RMD"]
    assert list_rules("mls,all,mls", objective_class("supcon")) == ["mls", *every]
    assert list_rules("all,mls") == ["mls"]  # where nothing says what all are


def test_a_mean_over_some_parts_says_so(tmp_path: Path) -> None:
    for part in ("split-0", "split-1"):
        (tmp_path / part).mkdir()
    config = EvaluateRequest(run=str(tmp_path))
    results = [{"rule": "mls", "metrics": {"auroc": value}} for value in (0.5, 0.7)]
    found = columns_of(config, [*results, {"rule": "vim", "metrics": {"auroc": 0.9}}])
    assert {name: column["auroc"]["mean"] for name, column in found.items()} == {"mls": 0.6, "vim (1 of 2)": 0.9}
    assert list(columns_of(config, results)) == ["split-0", "split-1", "mean"]


def test_rules_that_read_no_logits_judge_a_network_without_any(tmp_path: Path) -> None:
    out = tmp_path / "run"
    asked = {**TINY, "limit_per_class": 20, "objective": "supcon", "rule": "knn_layers"}
    run_retrain(RetrainRequest(**asked, out=str(out)), ["x"])
    assert open_model(out).rule.name == "knn_layers"  # its state is read again
    names = "pytorch_ood.KNN,pytorch_ood.RMD,knn_layers"
    results = run_evaluate(EvaluateRequest(run=str(out), rule=names, **CPU))
    assert [result["rule"] for result in results] == names.split(",")
    assert all(result["metrics"]["closed_set_accuracy"] > 0.3 for result in results)
    with pytest.raises(UserError, match="'pytorch_ood.SHE' needs logits, which objective 'supcon' does not provide"):
        run_evaluate(EvaluateRequest(run=str(out), rule="pytorch_ood.SHE", **CPU))
