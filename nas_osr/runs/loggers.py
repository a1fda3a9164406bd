"""Where the figures of a run go besides its folder: TensorBoard always, MLflow or Weights & Biases where asked for.

A logger is told of the configuration, of every record, of the picture of what was found, and of the last metrics. One
that goes on with an interrupted run goes on in the same place: logger.json in the run folder has its number there.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Literal, Protocol, get_args

from nas_osr.errors import UserError
from nas_osr.runs.run_folder import RunFolder

LoggerName = Literal["none", "mlflow", "wandb"]
LOGGERS: tuple[LoggerName, ...] = get_args(LoggerName)
PROJECT = "nas-osr"  # experiment of MLflow, project of Weights & Biases, where their own variables name none
MLFLOW_PARAMS, MLFLOW_LENGTH = 100, 6000  # in one request; characters of a value


class Logger(Protocol):
    """One place."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Take the numbers of an epoch or trial, by path such as `losses/ce`."""

    def picture(self, image: Any, step: int) -> None:
        """Take the picture of an architecture, uint8 [H, W, 3]."""

    def results(self, metrics: Mapping[str, float]) -> None:
        """Take the metrics of an evaluation."""

    def close(self, failed: bool) -> None:
        """End; `failed` is whether an exception, or an interruption, is on its way."""


def check_logger(name: str) -> None:
    """UserError where the package of a logger is not there; nothing is imported."""
    if name != "none" and importlib.util.find_spec(name) is None:
        raise UserError(f"--logger {name} needs another package: pip install 'nas-osr[{name}]'")


class Loggers:
    """The loggers of one run, opened when there is something to tell. Use it as a context manager, on the first rank.

    Args:
        name: of the one besides TensorBoard.
    """

    def __init__(self, name: LoggerName = "none") -> None:
        self.name = name
        self._open: list[Logger] = []

    def __enter__(self) -> Loggers:
        return self

    def __exit__(self, kind: object, error: object, trace: TracebackType | None) -> None:
        while self._open:
            self._open.pop().close(failed=kind is not None)

    def of(self, run: RunFolder, step: int) -> list[Logger]:
        """The loggers, opened for a run that is to record this step next."""
        if not self._open:
            config = dict(flat_values(run.read_config()))
            self._open.append(TensorBoardLogger(run, step, config))
            if self.name == "mlflow":
                self._open.append(MlflowLogger(run, config))
            elif self.name == "wandb":
                self._open.append(WandbLogger(run, config))
        return self._open


def flat_values(config: Mapping[str, Any], head: str = "") -> Iterator[tuple[str, bool | int | float | str]]:
    """The settings of a configuration by dotted name; lists are texts, and what is open is left out."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from flat_values(value, f"{head}{name}.")
        elif value is not None:
            yield f"{head}{name}", value if isinstance(value, bool | int | float | str) else str(value)


class TensorBoardLogger:
    """An event file in the run folder."""

    def __init__(self, run: RunFolder, step: int, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        self.writer = SummaryWriter(str(run.path), purge_step=step)
        if config:
            file = self.writer._get_file_writer()
            for summary in hparams(dict(config), {}):
                file.add_summary(summary)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def picture(self, image: Any, step: int) -> None:
        self.writer.add_image("architecture", image, step, dataformats="HWC")

    def results(self, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(f"test/{name}", value)

    def close(self, failed: bool) -> None:
        self.writer.close()


class MlflowLogger:
    """A run of MLflow, at MLFLOW_TRACKING_URI, in the experiment MLFLOW_EXPERIMENT_NAME or "nas-osr"."""

    def __init__(self, run: RunFolder, config: Mapping[str, Any]) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self.client = MlflowClient()
        number = kept_number(run, "mlflow")
        if number is not None:
            self.number = number
            self.client.update_run(number, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self.client.get_experiment_by_name(name)
        place = experiment.experiment_id if experiment else self.client.create_experiment(name)
        self.number = self.client.create_run(place, run_name=run.path.resolve().name).info.run_id
        keep_number(run, "mlflow", self.number)
        params = [Param(key, str(value)[:MLFLOW_LENGTH]) for key, value in config.items()]
        for first in range(0, len(params), MLFLOW_PARAMS):
            self.client.log_batch(self.number, params=params[first : first + MLFLOW_PARAMS])

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self.client.log_batch(self.number, [Metric(name, value, now, step) for name, value in values.items()])

    def picture(self, image: Any, step: int) -> None:
        self.client.log_image(self.number, image, artifact_file="architecture.png")

    def results(self, metrics: Mapping[str, float]) -> None:
        self.scalars({f"test/{name}": value for name, value in metrics.items()}, 0)

    def close(self, failed: bool) -> None:
        self.client.set_terminated(self.number, "FAILED" if failed else "FINISHED")


class WandbLogger:
    """A run of Weights & Biases, in the project WANDB_PROJECT or "nas-osr"; WANDB_MODE=offline keeps it here."""

    def __init__(self, run: RunFolder, config: Mapping[str, Any]) -> None:
        import wandb

        self.image = wandb.Image
        project, number = os.environ.get("WANDB_PROJECT", PROJECT), kept_number(run, "wandb")
        self.run = wandb.init(
            project=project, name=run.path.resolve().name, config=dict(config), id=number, resume="allow"
        )
        if number is None:
            keep_number(run, "wandb", self.run.id)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.run.log({**values, "epoch": step})

    def picture(self, image: Any, step: int) -> None:
        self.run.log({"architecture": self.image(image), "epoch": step})

    def results(self, metrics: Mapping[str, float]) -> None:
        self.run.summary.update({f"test/{name}": value for name, value in metrics.items()})

    def close(self, failed: bool) -> None:
        self.run.finish(exit_code=1 if failed else 0)


def kept_number(run: RunFolder, name: str) -> str | None:
    """The number that a run has with a logger; None where it has none yet. Raises UserError when the file is broken."""
    if not (run.path / "logger.json").is_file():
        return None
    number = run.read_json("logger.json").get(name)
    if not (number is None or isinstance(number, str)):
        raise UserError(f"{run.path / 'logger.json'}: {name} must be a text; remove the file to begin anew there")
    return number


def keep_number(run: RunFolder, name: str, number: str) -> None:
    """Remember it."""
    before = run.read_json("logger.json") if (run.path / "logger.json").is_file() else {}
    run.write_json("logger.json", {**before, name: number})
