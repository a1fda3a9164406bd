"""Where figures go besides the run folder: what TensorBoard, MLflow and Weights & Biases are told."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas_osr.cli.main import main
from nas_osr.errors import UserError
from nas_osr.runs.loggers import Loggers, flat_values
from nas_osr.runs.run_folder import RunFolder

SMALL = [
    "--protocol", "digits", "--preset", "tiny", "--limit_per_class", "20", "--batch_size", "16", "--device", "cpu",
    "--threads", "1", "--epochs", "2",
]  # fmt: skip
CONFIG: dict[str, Any] = {"epochs": 3, "compile": False, "known": ["a", "b"], "unknown": None, "recipe": {"rate": 0.1}}
FLAT = {"epochs": 3, "compile": False, "known": "['a', 'b']", "recipe.rate": 0.1}


def begin(folder: Path, *, resume: bool = False) -> RunFolder:
    run = RunFolder.create(folder, resume=resume)
    run.provenance(["nas-osr", "retrain"], CONFIG, 0, None)
    return run


def needs(package: str) -> pytest.MarkDecorator:
    found = importlib.util.find_spec(package) is not None
    return pytest.mark.skipif(not found, reason=f"needs the extra nas-osr[{package}]")


def test_a_configuration_is_flat_for_loggers() -> None:
    assert dict(flat_values(CONFIG)) == FLAT


def test_tensorboard_has_settings_figures_picture_and_results(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    run = begin(tmp_path / "run")
    with run, Loggers() as loggers:
        for step, loss in enumerate((2.0, 1.0)):
            [logger] = loggers.of(run, step)
            logger.scalars({"losses/ce": loss}, step)
        logger.picture(np.full((4, 5, 3), 128, np.uint8), 1)
        logger.results({"auroc": 0.75})
    assert len(list((tmp_path / "run").glob("events.out.tfevents.*"))) == 1
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("losses/ce")] == [(0, 2.0), (1, 1.0)]
    assert [event.value for event in events.Scalars("test/auroc")] == [0.75]
    [picture] = events.Images("architecture")
    assert (picture.width, picture.height) == (5, 4)
    content = HParamsPluginData.FromString(events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content)
    told = {
        name: value.number_value or value.string_value for name, value in content.session_start_info.hparams.items()
    }
    assert told == {"epochs": 3.0, "compile": "", "known": "['a', 'b']", "recipe.rate": pytest.approx(0.1)}


def test_a_logger_that_is_not_installed_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("nas_osr.runs.loggers.importlib.util.find_spec", lambda name: None)
    assert main(["search", *SMALL, "--logger", "mlflow", "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == "nas-osr: error: --logger mlflow needs another package: pip install 'nas-osr[mlflow]'"
    assert not (tmp_path / "run").exists()


@needs("mlflow")
def test_mlflow_goes_on_with_an_interrupted_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")

    def train_and_stop() -> None:
        with begin(tmp_path / "run") as run, Loggers("mlflow") as loggers:
            loggers.of(run, 0)[1].scalars({"losses/ce": 2.0}, 0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_and_stop()
    client = MlflowClient()
    [number] = json.loads((tmp_path / "run" / "logger.json").read_text()).values()
    assert client.get_run(number).info.status == "FAILED"
    with begin(tmp_path / "run", resume=True) as run, Loggers("mlflow") as loggers:
        _, logger = loggers.of(run, 1)
        logger.scalars({"losses/ce": 1.0}, 1)
        logger.picture(np.full((4, 5, 3), 128, np.uint8), 1)
        logger.results({"auroc": 0.75})
    place = client.get_experiment_by_name("mine")
    assert place is not None
    [found] = client.search_runs([place.experiment_id])
    assert (found.info.run_id, found.info.run_name, found.info.status) == (number, "run", "FINISHED")
    assert found.data.params == {name: str(value) for name, value in FLAT.items()}
    assert [(m.step, m.value) for m in client.get_metric_history(number, "losses/ce")] == [(0, 2.0), (1, 1.0)]
    assert found.data.metrics["test/auroc"] == 0.75
    assert [file.path for file in client.list_artifacts(number)] == ["architecture.png"]


@needs("mlflow")
def test_a_search_and_a_retraining_log_to_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    search, trained = tmp_path / "search", tmp_path / "trained"
    options = [*SMALL, "--logger", "mlflow", "--quiet"]
    assert main(["search", *options, "--strategy_config.warmup_epochs", "1", "--out", str(search)]) == 0
    assert main(["retrain", str(search), *options, "--bootstrap", "0", "--out", str(trained)]) == 0
    client = MlflowClient()
    place = client.get_experiment_by_name("nas-osr")
    assert place is not None
    found = {run.info.run_name: run for run in client.search_runs([place.experiment_id])}
    assert set(found) == {"search", "split-0"}
    assert found["search"].data.params["strategy"] == "pas"
    assert [file.path for file in client.list_artifacts(found["search"].info.run_id)] == ["architecture.png"]
    last = json.loads((search / "history.jsonl").read_text().splitlines()[-1])
    assert found["search"].data.metrics["f1"] == pytest.approx(last["f1"])
    metrics = json.loads((trained / "split-0" / "metrics.json").read_text())["metrics"]
    assert found["split-0"].data.metrics["test/auroc"] == pytest.approx(metrics["auroc"])
    assert "logger" not in (trained / "split-0" / "config.yaml").read_text()


@needs("wandb")
@pytest.mark.slow
def test_wandb_keeps_a_run_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    with begin(tmp_path / "run") as run, Loggers("wandb") as loggers:
        _, logger = loggers.of(run, 0)
        logger.scalars({"losses/ce": 2.0}, 0)
        logger.picture(np.full((4, 5, 3), 128, np.uint8), 0)
        logger.results({"auroc": 0.75})
    number = json.loads((tmp_path / "run" / "logger.json").read_text())["wandb"]
    assert list(tmp_path.glob(f"wandb/offline-run-*-{number}/run-{number}.wandb"))


def test_a_broken_number_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nas_osr.runs.loggers import kept_number

    with begin(tmp_path / "run") as run:
        (run.path / "logger.json").write_text('{"mlflow": 3}')
        with pytest.raises(UserError, match=r"logger.json: mlflow must be a text"):
            kept_number(run, "mlflow")
