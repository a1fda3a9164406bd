"""What Optuna reads of a search, and rotations and criterion from one end to the other."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

import nas_osr
from nas_osr.cli.main import main
from nas_osr.errors import UserError
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.retrain.taking_over import read_origin
from nas_osr.runs.names import clear_run_folder
from nas_osr.runs.run_folder import RunFolder
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.architectures.references import load_architecture
from nas_osr.strategies.trials.front import front_of, read_front
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


def test_every_point_of_a_front_is_an_architecture_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of halving, whose trials are not all trained for as long; the command prints it as a table."""
    out = tmp_path / "run"
    options = [text for name, value in OPTIONS.items() if name != "quiet" for text in (f"--{name}", str(value))]
    own = ["--strategy_config.trials", "6", "--strategy_config.factor", "2", "--strategy_config.criterion", "oscr"]
    assert main(["search", *options, "--quiet", "--strategy", "halving", *own, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    run, compared = RunFolder.open(out), ("oscr", "parameters", "macs", "memory")
    longest = {record["epoch"]: record for record in run.read_history() if record["trained_epochs"] == 2}
    front = read_front(run)
    assert front and {out / row["file"] for row in front} == {*(out / "front").iterdir()}
    for row in front:
        record = longest[row["trial"]]
        assert not any(
            one["oscr"] > record["oscr"] and one["parameters"] <= record["parameters"] for one in longest.values()
        )
        assert [row[name] for name in compared] == [record[name] for name in compared]
        found = load_architecture(out / row["file"])
        assert found.describe()["branches"] == record["branches"]
        assert [found.found[name] for name in ("epoch", "criterion", "score")] == [row["trial"], "oscr", row["oscr"]]
        assert f"{row['file']}  {record['oscr']:.4f}  {record['parameters']:,}" in printed
    assert "no trial beats in both oscr and parameters:" in printed
    # what the search was of is taken over from its run, and a front by itself is refused
    where, searched = read_origin(RetrainRequest(architecture=str(out / front[0]["file"])))
    assert where == str(out / "config.yaml") and searched == run.read_config()
    for name in ("front.json", "front"):
        with pytest.raises(UserError, match=r"has several architectures: give the file of one, such as .*trial-\d"):
            load_architecture(out / name)
    assert main(["export", str(out / front[0]["file"]), "--format", "gv", "--out", str(tmp_path)]) == 0
    retraining = ["retrain", str(out / front[0]["file"]), "--epochs", "1", "--bootstrap", "0", "--dry_run"]
    assert main([*retraining, "--out", str(tmp_path / "again")]) == 0
    # the files are the run's own
    (out / "front" / "notes.txt").write_text("mine")
    clear_run_folder(out)
    assert [path.name for path in (out / "front").iterdir()] == ["notes.txt"]


def test_a_front_of_an_earlier_version_is_said_to_be_one(tmp_path: Path) -> None:
    row = {"trial": 1, "f1": 0.5, "parameters": 3, "architecture": {}}
    (tmp_path / "front.json").write_text(json.dumps({"front": [row]}))
    with pytest.raises(UserError, match="save what one of them has as `architecture` in a file of its own"):
        load_architecture(tmp_path / "front.json")
    assert read_front(RunFolder(tmp_path)) == [{"trial": 1, "f1": 0.5, "parameters": 3}]


def test_the_front_of_records() -> None:
    def trial(epoch: int, f1: float | None, parameters: int | None, **more: Any) -> dict[str, Any]:
        return {"epoch": epoch, "phase": "trial", "f1": f1, "parameters": parameters, **more}

    tried = [trial(0, 0.5, 10), trial(1, 0.7, 30), trial(2, 0.5, 10), trial(3, 0.6, 30), trial(4, 0.4, 20)]
    tried += [trial(5, None, 1), trial(6, 0.9, None), {"epoch": 7, "phase": "search", "f1": 1.0, "parameters": 1}]
    assert [record["epoch"] for record in front_of(tried, "f1", "parameters")] == [0, 1]
    longer = [trial(8, 0.3, 40, trained_epochs=9), trial(9, 0.8, 5, trained_epochs=3)]
    assert [record["epoch"] for record in front_of(longer, "f1", "parameters")] == [8]
    assert front_of([], "f1", "parameters") == []


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
