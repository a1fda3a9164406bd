"""What a run recorder writes: history, timing and TensorBoard events."""

from __future__ import annotations

import os
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from lightning_fabric import Fabric

from nas_osr import train
from nas_osr.ranks.first import FirstRank
from nas_osr.runs import recorder as recorder_module
from nas_osr.runs.progress import ProgressReporter
from nas_osr.runs.recorder import RunRecorder, scalars
from nas_osr.runs.run_folder import RunFolder
from nas_osr.runs.stopping import Terminated


def test_scalars_of_a_nested_record() -> None:
    record = {"epoch": 3, "phase": "search", "f1": 0.5, "auroc": None, "losses": {"ce": 2, "architecture/ce": 1.5}}
    monitors = {"entropy": {"alpha": 0.9, "beta": None}, "warnings": {"skips": "2 of 6"}, "stopped": None}
    assert scalars({**record, "monitors": monitors}) == {
        "f1": 0.5, "losses/ce": 2.0, "losses/architecture/ce": 1.5, "monitors/entropy/alpha": 0.9
    }  # fmt: skip


def test_events_hold_the_numbers_of_the_history(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with RunFolder.create(tmp_path / "run") as run:
        run.provenance(["nas-osr"], {}, 0, None)
        with RunRecorder(FirstRank(Fabric(), run), ProgressReporter(2, quiet=True), resume=False) as recorder:
            for epoch, f1 in enumerate((0.25, 0.5)):
                record = {"epoch": epoch, "phase": "search", "f1": f1, "losses": {"ce": 2.0}}
                recorder.record(record, {"epoch": epoch, "seconds": 1.0, "training_seconds": 1.0, "images": 10})
        assert [record["f1"] for record in recorder.history()] == [0.25, 0.5]
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("f1")] == [(0, 0.25), (1, 0.5)]
    assert events.Tags()["scalars"] == ["f1", "losses/ce"]


@pytest.mark.parametrize(("minutes", "wanted"), [(0.0, False), (60.0, False), (1e-9, True)])
def test_checkpoints_are_wanted_when_the_minutes_are_over(tmp_path: Path, minutes: float, wanted: bool) -> None:
    with RunFolder.create(tmp_path / "run") as run:
        run.provenance(["nas-osr"], {}, 0, None)
        with RunRecorder(FirstRank(Fabric(), run), ProgressReporter(2, quiet=True), False, minutes) as recorder:
            assert recorder.wants_checkpoint() == wanted


def test_a_signal_between_steps_wants_a_checkpoint_that_is_saved_before_the_run_ends(tmp_path: Path) -> None:
    def train() -> None:
        with RunFolder.create(tmp_path / "run") as run:
            run.provenance(["nas-osr", "search"], {}, 0, None)
            with RunRecorder(FirstRank(Fabric(), run), ProgressReporter(2, quiet=True), resume=False) as recorder:
                assert not recorder.wants_checkpoint()
                os.kill(os.getpid(), signal.SIGTERM)
                assert recorder.wants_checkpoint()
                recorder.save({"epoch": -1, "inside": {"steps": 1}})
                pytest.fail("the run went on")

    with pytest.raises(Terminated, match="resume with: nas-osr search --resume auto"):
        train()
    assert RunFolder.open(tmp_path / "run").load_checkpoint() == {"epoch": -1, "inside": {"steps": 1}}


# Checkpoints that take long ---------------------------------------------------------------------------------------


class Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize(("seconds", "expected"), [(1.9, 40), (8.0, 3)])
def test_dear_checkpoints_take_a_tenth_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, seconds: float, expected: int
) -> None:
    """Forty epochs of four seconds: cheap ones are written after each, dear ones every ten times their seconds."""
    clock, written = Clock(), list[float]()
    monkeypatch.setattr(recorder_module, "time", clock)

    def save(run: RunFolder, state: dict[str, Any]) -> None:
        clock.now += seconds
        written.append(clock.now)

    monkeypatch.setattr(RunFolder, "save_checkpoint", save)
    with RunFolder.create(tmp_path / "run") as run:
        run.provenance(["nas-osr"], {}, 0, None)
        with RunRecorder(FirstRank(Fabric(), run), ProgressReporter(40, quiet=True), False, 0.1) as recorder:
            for epoch in range(40):
                clock.now += 4.0
                recorder.save({"epoch": epoch}, needed=False)
                assert recorder.wants_checkpoint() == (seconds < 2 and clock.now - written[-1] >= 6.0)
            assert len(written) == expected
            recorder.save({"epoch": 40})
            assert len(written) == expected + 1  # what is needed is written
    if seconds >= 2:
        assert all(later - earlier >= 10 * seconds for earlier, later in pairwise(written[:-1]))
    told = [record.message for record in caplog.records if "a checkpoint takes 8.0 s" in record.message]
    assert len(told) == (seconds >= 2) and all("no oftener than every 80 s" in line for line in told)


def test_a_run_that_left_checkpoints_out_goes_on_from_the_last_that_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {
        "architecture": "random:0", "protocol": "digits", "preset": "tiny", "limit_per_class": 20, "epochs": 4,
        "threads": 1, "quiet": True,
    }  # fmt: skip
    train(**options, out=tmp_path / "whole")
    monkeypatch.setattr(recorder_module, "CHEAP", 0.0)
    monkeypatch.setattr(recorder_module, "SHARE", 1e-6)
    saved = []
    save = RunFolder.save_checkpoint

    def count(run: RunFolder, state: dict[str, Any]) -> None:
        saved.append(state["epoch"])
        save(run, state)

    monkeypatch.setattr(RunFolder, "save_checkpoint", count)
    record = RunRecorder.record

    def cut(recorder: RunRecorder, found: dict[str, Any], timing: dict[str, Any]) -> None:
        record(recorder, found, timing)
        if found["epoch"] == 2:
            raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(RunRecorder, "record", cut)
        with pytest.raises(RuntimeError, match="killed"):
            train(**options, out=tmp_path / "run")
    part = RunFolder.open(tmp_path / "run" / "split-0")
    assert saved == [0] and len(part.read_history()) == 3
    train(**options, out=tmp_path / "run", resume="auto")
    assert saved == [0, 1, 3]  # a process cannot know what one costs before its first
    for name in ("history.jsonl", "predictions.csv"):
        assert (part.path / name).read_bytes() == (tmp_path / "whole" / "split-0" / name).read_bytes(), name
