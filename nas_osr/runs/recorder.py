"""Keeps what a long computation produces, epoch by epoch: the run folder and the progress display behind one face."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lightning_fabric import Fabric

from nas_osr.ranks.first import FirstRank, check_same
from nas_osr.runs.loggers import Loggers
from nas_osr.runs.progress import ProgressReporter
from nas_osr.runs.resumption import MAY_CHANGE
from nas_osr.runs.run_folder import RunFolder
from nas_osr.runs.stopping import StopRequests

CHEAP = 2.0  # seconds of a checkpoint, below which it is written whenever there is something new
SHARE = 0.1  # of the time, that dearer ones may take

logger = logging.getLogger(__name__)


class Recorder(Protocol):
    """What searching and retraining call."""

    def record(self, record: dict[str, Any], timing: dict[str, Any]) -> None:
        """Append one epoch; `record` has no times in it, `timing` has nothing else."""

    def step(self, done: int, steps: int) -> None:
        """Show that so many steps of an epoch are done, of how many."""

    def wants_checkpoint(self) -> bool:
        """Whether `save` should be called now, between two steps."""

    def save(self, state: dict[str, Any], needed: bool = True) -> None:
        """Keep a checkpoint of tensors and plain values; `state["epoch"]` is the last epoch that is done, from -1 on.

        One that is not `needed` may be left out where checkpoints would take more of the time than they are worth.
        Raises KeyboardInterrupt afterwards if the process is to end.
        """

    def restore(self) -> dict[str, Any] | None:
        """The last checkpoint of a run that is being resumed, with the history cut to it; else None."""

    def history(self) -> list[dict[str, Any]]:
        """All records so far."""

    def folder(self) -> Path | None:
        """Where more may be left, by the first rank; None on the others, and where nothing is kept."""


@dataclass
class Unkept:
    """A `Recorder` that shows the epochs and keeps nothing: what is not resumed."""

    reporter: ProgressReporter
    records: list[dict[str, Any]] = field(default_factory=list)

    def record(self, record: dict[str, Any], timing: dict[str, Any]) -> None:
        self.records.append(record)
        self.reporter.epoch(record, timing)

    def step(self, done: int, steps: int) -> None:
        self.reporter.step(done, steps)

    def wants_checkpoint(self) -> bool:
        return False

    def save(self, state: dict[str, Any], needed: bool = True) -> None:
        """Keep nothing."""

    def restore(self) -> None:
        return None

    def history(self) -> list[dict[str, Any]]:
        return self.records

    def folder(self) -> None:
        return None


class RunRecorder:
    """A `Recorder` over the first rank's run folder, for every rank: each hears what it restores, or what goes wrong.

    Use it as a context manager. Every number of a record also goes to a TensorBoard event file in the folder.

    A checkpoint that takes two seconds or more is written so seldom that all of them take a tenth of the time at most.
    One that is needed, at the end of the training or when the process is to end, is written always.

    Args:
        folder: open on the first rank.
        reporter: the progress display.
        resume: whether `restore` may find something.
        checkpoint_minutes: how long no checkpoint is wanted after the last; 0 is until the epoch ends. SIGTERM and
            Ctrl-C want one at once. Several ranks save at the end of epochs only: they never wait for each other to
            agree.
        loggers: where the numbers go as well; TensorBoard alone when not given.
    """

    def __init__(
        self,
        folder: FirstRank[RunFolder],
        reporter: ProgressReporter,
        resume: bool,
        checkpoint_minutes: float = 0.0,
        loggers: Loggers | None = None,
    ) -> None:
        self._folder = folder
        self._reporter = reporter
        self._resume = resume
        self._checkpoint_minutes = checkpoint_minutes
        self._saved = time.monotonic()
        self._rest = 0.0  # seconds without a checkpoint that is not needed, after the last
        self._stop = StopRequests()
        self._loggers = loggers
        self._open = contextlib.ExitStack()

    def __enter__(self) -> RunRecorder:
        if self._folder.here:
            self._open.enter_context(self._reporter)
            if self._loggers is None:
                self._loggers = self._open.enter_context(Loggers())
            self._open.enter_context(self._stop)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._open.__exit__(*exception)

    def record(self, record: dict[str, Any], timing: dict[str, Any]) -> None:
        def keep(run: RunFolder) -> None:
            run.append_history(record)
            run.append_timing(timing)
            assert self._loggers is not None
            for logger in self._loggers.of(run, record["epoch"]):
                logger.scalars(scalars(record), record["epoch"])
            self._reporter.epoch(record, timing)

        self._folder.call(keep)

    def step(self, done: int, steps: int) -> None:
        if self._folder.here:
            self._reporter.step(done, steps)

    def wants_checkpoint(self) -> bool:
        if not self._folder.alone:
            return False
        self._stop.defer()  # whoever asks will ask again after the next step
        pause = max(60 * self._checkpoint_minutes, self._rest)
        return self._stop.requested or (self._checkpoint_minutes > 0 and time.monotonic() - self._saved >= pause)

    def save(self, state: dict[str, Any], needed: bool = True) -> None:
        """See `Recorder`; the first rank's state is kept."""

        def keep(run: RunFolder) -> None:
            started = time.monotonic()
            if needed or self._stop.requested or started - self._saved >= self._rest:
                run.save_checkpoint(state)
                self._saved = time.monotonic()
                self._rest_after(self._saved - started)
            self._stop.raise_requested()

        self._folder.call(keep)

    def _rest_after(self, seconds: float) -> None:
        """Wait for the next checkpoint as long as the last one's seconds ask for; said when it begins."""
        if seconds >= CHEAP and not self._rest:
            logger.warning(
                "a checkpoint takes %.1f s: they are written no oftener than every %.0f s, and at the end, so that a "
                "tenth of the time goes into them", seconds, seconds / SHARE,
            )  # fmt: skip
        self._rest = seconds * (1 / SHARE - 1) if seconds >= CHEAP else 0.0

    def restore(self) -> dict[str, Any] | None:
        def read(run: RunFolder) -> dict[str, Any] | None:
            state = run.load_checkpoint() if self._resume else None
            run.truncate_history(0 if state is None else state["epoch"] + 1)
            return state

        return self._folder.call(read)

    def history(self) -> list[dict[str, Any]]:
        return self._folder.call(RunFolder.read_history)

    def folder(self) -> Path | None:
        return self._folder.value.path if self._folder.here else None


def scalars(record: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a nested record by path, such as `losses/ce`; the epoch itself left out."""
    found: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            found |= scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and name != "epoch":
            found[prefix + name] = float(value)
    return found


def check_equal_options(fabric: Fabric, config: Mapping[str, Any]) -> None:
    """UserError, on every rank, unless all were asked for the same, but for what may change between machines."""
    check_same(fabric, "options", str({name: value for name, value in config.items() if name not in MAY_CHANGE}))
