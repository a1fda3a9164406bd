"""What a run recorder writes: history, timing and TensorBoard events."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from lightning_fabric import Fabric

from nas_osr.ranks.first import FirstRank
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
