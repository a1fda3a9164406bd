"""Keeps what a long computation produces, epoch by epoch: the run folder and the progress display behind one face."""

from __future__ import annotations

import time
from typing import Any, Protocol

from nas_osr.runs.folder import RunFolder
from nas_osr.runs.progress import ProgressReporter
from nas_osr.runs.stopping import StopRequests


class Recorder(Protocol):
    """What searching and retraining call."""

    def record(self, record: dict[str, Any], timing: dict[str, Any]) -> None:
        """Append one epoch; `record` has no times in it, `timing` has nothing else."""

    def wants_checkpoint(self) -> bool:
        """Whether `save` should be called now, between two steps."""

    def save(self, state: dict[str, Any]) -> None:
        """Keep a checkpoint of tensors and plain values; `state["epoch"]` is the last epoch that is done, from -1 on.

        Raises KeyboardInterrupt afterwards if the process is to end.
        """

    def restore(self) -> dict[str, Any] | None:
        """The last checkpoint of a run that is being resumed, with the history cut to it; else None."""

    def history(self) -> list[dict[str, Any]]:
        """All records so far."""


class RunRecorder:
    """A `Recorder` over a run folder; use it as a context manager.

    Every number of a record also goes to a TensorBoard event file in the folder.

    Args:
        run: the open folder.
        reporter: the progress display.
        resume: whether `restore` may find something.
        checkpoint_minutes: how long no checkpoint is wanted after the last; 0 is until the epoch ends. SIGTERM and
            Ctrl-C want one at once.
    """

    def __init__(
        self, run: RunFolder, reporter: ProgressReporter, resume: bool, checkpoint_minutes: float = 0.0
    ) -> None:
        self.run = run
        self.reporter = reporter
        self.resume = resume
        self.checkpoint_minutes = checkpoint_minutes
        self._saved = time.monotonic()
        self._stop = StopRequests()
        self._events: Any = None

    def __enter__(self) -> RunRecorder:
        self._stop.__enter__()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if self._events is not None:
                self._events.close()
        finally:
            self._stop.__exit__(kind, error, trace)

    def record(self, record: dict[str, Any], timing: dict[str, Any]) -> None:
        """See `Recorder`."""
        self.run.append_history(record)
        self.run.append_timing(timing)
        self._write_events(record)
        self.reporter.epoch(record, timing)

    def wants_checkpoint(self) -> bool:
        """See `Recorder`."""
        self._stop.defer()  # whoever asks will ask again after the next step
        minutes = (time.monotonic() - self._saved) / 60
        return self._stop.requested or (self.checkpoint_minutes > 0 and minutes >= self.checkpoint_minutes)

    def save(self, state: dict[str, Any]) -> None:
        """See `Recorder`."""
        self.run.save_checkpoint(state)
        self._saved = time.monotonic()
        self._stop.raise_requested()

    def restore(self) -> dict[str, Any] | None:
        """See `Recorder`."""
        state = self.run.load_checkpoint() if self.resume else None
        self.run.truncate_history(0 if state is None else state["epoch"] + 1)
        return state

    def history(self) -> list[dict[str, Any]]:
        """See `Recorder`."""
        return self.run.read_history()

    def _write_events(self, record: dict[str, Any]) -> None:
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(self.run.path), purge_step=record["epoch"])
        for name, value in scalars(record).items():
            self._events.add_scalar(name, value, record["epoch"])
        self._events.flush()


def scalars(record: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a nested record by path, such as `losses/ce`; the epoch itself left out."""
    found: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            found |= scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and name != "epoch":
            found[prefix + name] = float(value)
    return found
