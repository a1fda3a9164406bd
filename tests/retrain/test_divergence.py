"""A retraining that diverges ends with one line, exit code 2 and its last good checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from nas_osr.cli.main import main
from nas_osr.objectives.cross_entropy import CrossEntropy
from nas_osr.runs.run_folder import RunFolder
from nas_osr.training import epochs

TINY = [
    "retrain", "random:0", "--protocol", "digits", "--preset", "tiny", "--objective", "cross_entropy", "--epochs", "3",
    "--batch_size", "32", "--limit_per_class", "20", "--device", "cpu", "--threads", "1", "--bootstrap", "0",
]  # fmt: skip


def test_the_last_good_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = CrossEntropy.losses

    def losses(self, encoder, batch, player="main", progress=1.0):  # type: ignore[no-untyped-def]
        terms = original(self, encoder, batch, player, progress)
        return {name: value * (float("inf") if progress > 0.4 else 1.0) for name, value in terms.items()}

    monkeypatch.setattr(CrossEntropy, "losses", losses)
    out = tmp_path / "run"
    assert main([*TINY, "--out", str(out)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "diverged" in line]
    assert "loss term 'ce' is not finite in step" in line and "of epoch 2 of 3; lower the learning rate" in line

    run = RunFolder.open(out / "split-0")
    assert [record["epoch"] for record in run.read_history()] == [0] and not run.finished
    state = run.load_checkpoint()
    assert state is not None and state["epoch"] == 0
    assert all(value.isfinite().all() for value in state["learner"].values() if value.is_floating_point())
    assert not (out / "split-0" / "checkpoint.previous.pt").exists()

    # what is left is a run that goes on, once the cause is gone
    monkeypatch.setattr(CrossEntropy, "losses", original)
    assert main([*TINY, "--out", str(out), "--resume", "auto"]) == 0
    history = run.read_history()
    assert [record["epoch"] for record in history] == [0, 1, 2]
    assert set(history[0]["monitors"]) == {"gradient_norm", "embedding_spread", "warnings"}
    assert (
        0.0 < history[0]["monitors"]["embedding_spread"] <= 1.0 and history[0]["monitors"]["gradient_norm"]["main"] > 0
    )


def test_an_augmentation_that_gives_no_numbers_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, augment, calls = ModuleType("my_broken"), epochs.augment, list[int]()

    def counted(images: torch.Tensor, *more: Any) -> torch.Tensor:
        calls.append(len(images))  # of the training: what a step costs is measured before
        return augment(images, *more)

    def sometimes(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        if len(calls) == bad:
            images[1, 0, 2, 2] = float("nan")
        return images

    module.sometimes = sometimes  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_broken", module)
    monkeypatch.setattr(epochs, "augment", counted)
    steps = 3  # of an epoch, of 108 training images in batches of 32
    for bad, finished, called in ((1, 0, 1), (steps + 2, 1, 2 * steps)):  # at once, and later in the second epoch
        calls.clear()
        out = tmp_path / str(bad)
        assert main([*TINY, "--out", str(out), "--recipe_config.augmentation", "crop_flip,my_broken.sometimes"]) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert "augmentation 'my_broken.sometimes' gives values that are not numbers" in last and "rate" not in last
        assert len(RunFolder.open(out / "split-0").read_history()) == finished and len(calls) == called
