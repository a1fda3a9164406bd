"""One run folder for several ranks: the first writes and reads it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from lightning_fabric import Fabric

from nas_osr.ranks.first import FirstRank, check_same, opened_by_first
from nas_osr.runs.folder import RunFolder
from nas_osr.runs.progress import ProgressReporter
from nas_osr.runs.recorder import Recorder, RunRecorder
from nas_osr.runs.resumption import MAY_CHANGE


def check_equal_options(fabric: Fabric, config: Mapping[str, Any]) -> None:
    """UserError, on every rank, unless all were asked for the same, but for what may change between machines."""
    check_same(fabric, "options", str({name: value for name, value in config.items() if name not in MAY_CHANGE}))


class FirstRankRecorder:
    """A `Recorder` of the first rank, for all: each hears what it restores, or what goes wrong."""

    def __init__(self, recorder: FirstRank[Any]) -> None:
        self._recorder: FirstRank[Recorder] = recorder

    def record(self, record: dict[str, Any], timing: dict[str, Any]) -> None:
        """See `Recorder`."""
        self._recorder.call(lambda recorder: recorder.record(record, timing))

    def wants_checkpoint(self) -> bool:
        """See `Recorder`. Several ranks save at the end of epochs only: they never wait for each other to agree."""
        return self._recorder.alone and self._recorder.value.wants_checkpoint()

    def save(self, state: dict[str, Any]) -> None:
        """See `Recorder`; the first rank's state is kept."""
        self._recorder.call(lambda recorder: recorder.save(state))

    def restore(self) -> dict[str, Any] | None:
        """See `Recorder`."""
        return self._recorder.call(lambda recorder: recorder.restore())

    def history(self) -> list[dict[str, Any]]:
        """See `Recorder`."""
        return self._recorder.call(lambda recorder: recorder.history())


@contextlib.contextmanager
def open_recorder(
    fabric: Fabric, folder: FirstRank[RunFolder], reporter: ProgressReporter, resume: bool, checkpoint_minutes: float
) -> Iterator[FirstRankRecorder]:
    """A recorder over the first rank's run folder, for every rank; see `nas_osr.runs.recorder.RunRecorder`."""

    @contextlib.contextmanager
    def opening() -> Iterator[RunRecorder]:
        with reporter, RunRecorder(folder.value, reporter, resume, checkpoint_minutes) as recorder:
            yield recorder

    with opened_by_first(fabric, opening) as recorder:
        yield FirstRankRecorder(recorder)
