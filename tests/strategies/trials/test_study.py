"""What Optuna reads of a search, and rotations and criterion from one end to the other."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

import nas_osr
from nas_osr.errors import UserError
from nas_osr.runs.run_folder import RunFolder
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.strategies.trials.study import STUDY_FILE, STUDY_NAME

OPTIONS: dict[str, Any] = {
    "protocol": "digits", "preset": "tiny", "layers": 3, "channels": 16, "epochs": 2, "batch_size": 8, "seed": 3,
    "limit_per_class": 20, "objective": "cross_entropy", "device": "cpu", "threads": 1, "quiet": True,
}  # fmt: skip


def open_study(out: Path) -> optuna.Study:
    return optuna.load_study(study_name=STUDY_NAME, storage=JournalStorage(JournalFileBackend(str(out / STUDY_FILE))))


def test_optuna_opens_the_study_of_a_halving_over_rotations(tmp_path: Path) -> None:
    settings = {"trials": 5, "factor": 2, "rotations": 2, "criterion": "oscr"}
    out = tmp_path / "run"
    result = nas_osr.search(**OPTIONS, strategy="halving", strategy_config=settings, out=str(out))
    history, study = RunFolder.open(out).read_history(), open_study(out)
    assert len(study.trials) == len(history) == 5
    for trial, record in zip(study.trials, history, strict=True):
        assert trial.state.name == ("COMPLETE" if record["trained_epochs"] == 2 else "PRUNED")
        assert trial.value == (record["oscr"] if record["trained_epochs"] == 2 else None)
        assert trial.intermediate_values == {record["trained_epochs"]: record["oscr"]}
        operations = [value for name, value in trial.params.items() if name.startswith("cell")]
        assert operations == record["branches"]["2"]["operations"]
    # the mean over rotations of different classes counts
    for record in history:
        names = [rotation["pseudo_unknown"] for rotation in record["rotations"]]
        assert len(names) == 2 and not {*names[0]} & {*names[1]}
        for score in ("f1", "auroc", "oscr", "accuracy"):
            mean = sum(rotation[score] for rotation in record["rotations"]) / 2
            assert math.isclose(record[score], mean, rel_tol=1e-12)
    whole = [record for record in history if record["trained_epochs"] == 2]
    best = max(whole, key=lambda record: record["oscr"])
    found = Architecture.load(out / "architecture.json").found
    assert (found["epoch"], found["criterion"], found["score"]) == (best["epoch"], "oscr", best["oscr"])
    assert found["F1"] == best["f1"] == result["f1"]


def test_several_objectives_are_a_study_and_a_front(tmp_path: Path) -> None:
    out = tmp_path / "run"
    nas_osr.search(**OPTIONS, strategy="nsga", strategy_config={"trials": 5, "population": 2}, out=str(out))
    history, study = RunFolder.open(out).read_history(), open_study(out)
    assert [trial.values for trial in study.trials] == [[one["f1"], one["parameters"]] for one in history]
    front = RunFolder.open(out).read_json("front.json")["front"]
    assert {(point["f1"], point["parameters"]) for point in front} == {
        (trial.values[0], trial.values[1]) for trial in study.best_trials
    }
    assert all(Architecture.from_dict(point["architecture"], "front") for point in front)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "random", "strategy_config": {"rotations": 4}}, "rotations must be at most 3"),
        ({"strategy": "halving", "epochs": 1}, "shortest must be less than epochs, 1, got 1"),
        ({"strategy": "evolution", "strategy_config": {"tournament": 9}}, "tournament must be at most the population"),
        ({"strategy": "pas", "jobs": 2}, "jobs: strategy pas trains one network"),
        ({"strategy": "random", "strategy_config": {"criterion": "eer"}}, "criterion must be one of f1, auroc, oscr"),
        (
            {"strategy": "darts", "strategy_config": {"criterion": "auroc"}, "epochs": 12},
            "criterion auroc needs classes",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        nas_osr.search(**{**OPTIONS, **changes}, out=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
