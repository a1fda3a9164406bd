"""Keeps what a long computation produces, epoch by epoch: the run folder and the progress display behind one face."""

from __future__ import annotations

from typing import Any, Protocol

from nas_osr.progress import ProgressReporter
from nas_osr.runs import RunFolder


class Recorder(Protocol):
    """What searching and retraining call."""

    def record(self, record: dict[str, Any], timing: dict[str, Any]) -> None:
        """Append one epoch; `record` has no times in it, `timing` has nothing else."""

    def save(self, state: dict[str, Any]) -> None:
        """Keep a checkpoint of tensors and plain values; `state["epoch"]` is the last epoch that is done."""

    def restore(self) -> dict[str, Any] | None:
        """The last checkpoint of a run that is being resumed, with the history cut to it; else None."""

    def history(self) -> list[dict[str, Any]]:
        """All records so far."""


class RunRecorder:
    """A `Recorder` over a run folder.

    Args:
        run: the open folder.
        reporter: the progress display.
        resume: whether `restore` may find something.
    """

    def __init__(self, run: RunFolder, reporter: ProgressReporter, resume: bool) -> None:
        self.run = run
        self.reporter = reporter
        self.resume = resume

    def record(self, record: dict[str, Any], timing: dict[str, Any]) -> None:
        """See `Recorder`."""
        self.run.append_history(record)
        self.run.append_timing(timing)
        self.reporter.epoch(record, timing)

    def save(self, state: dict[str, Any]) -> None:
        """See `Recorder`."""
        self.run.save_checkpoint(state)

    def restore(self) -> dict[str, Any] | None:
        """See `Recorder`."""
        state = self.run.load_checkpoint() if self.resume else None
        self.run.truncate_history(0 if state is None else state["epoch"] + 1)
        return state

    def history(self) -> list[dict[str, Any]]:
        """See `Recorder`."""
        return self.run.read_history()
