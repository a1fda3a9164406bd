"""The figure of trials: every trial is a point, and what none beats is filled and on the line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from nas_osr.cli.main import main
from nas_osr.errors import UserError
from nas_osr.reports.trial_costs import plot_trials

from .conftest import search_records, write_history


def trials(*points: tuple[int, float]) -> list[dict[str, Any]]:
    return [
        {"epoch": number, "phase": "trial", "parameters": size, "macs": 10 * size, "f1": score, "auroc": 1 - score}
        for number, (size, score) in enumerate(points)
    ]


def test_points_and_front(tmp_path: Path) -> None:
    runs = {
        "evolution": write_history(tmp_path / "a", trials((100_000, 0.5), (300_000, 0.8), (200_000, 0.4))),
        "random": write_history(tmp_path / "b", trials((150_000, 0.6), (400_000, 0.7))),
    }
    [axes] = plot_trials(runs).axes
    step, *points = axes.lines
    np.testing.assert_allclose(step.get_xydata(), [[0.1, 50], [0.15, 60], [0.3, 80]])
    found = {
        (round(x, 3), round(y, 3)): to_rgba(line.get_markerfacecolor()) != to_rgba("white")
        for line in points
        for x, y in np.asarray(line.get_xydata()).tolist()
    }
    assert found == {(0.1, 50): True, (0.3, 80): True, (0.2, 40): False, (0.15, 60): True, (0.4, 70): False}
    assert [line.get_label() for line in points[1::2]] == ["evolution", "random"]
    [axes] = plot_trials(runs, metric="auroc", against="macs").axes
    assert axes.get_xlabel() == "million multiply-accumulates an image" and axes.get_ylabel() == "AUROC (%)"


def test_memory_and_latency_have_their_units(tmp_path: Path) -> None:
    points = ((1_000_000, 0.5), (3_000_000, 0.8))
    records = [{**t, "memory": 4 * t["parameters"], "latency": t["parameters"] / 1e7} for t in trials(*points)]
    run = write_history(tmp_path / "a", records)
    for against, text, expected in (("memory", "megabytes", [4, 12]), ("latency", "milliseconds", [0.1, 0.3])):
        [axes] = plot_trials(run, against=against).axes
        assert axes.get_xlabel().startswith(text)
        np.testing.assert_allclose(np.asarray(axes.lines[0].get_xdata()), expected)


def test_trials_of_different_lengths_are_not_mixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = trials((100_000, 0.9), (300_000, 0.8), (200_000, 0.4))
    for record, epochs in zip(records, (1, 9, 9), strict=True):
        record["trained_epochs"] = epochs
    [axes] = plot_trials(write_history(tmp_path / "a", records)).axes
    drawn = {float(x) for line in axes.lines for x in np.asarray(line.get_xdata())}
    assert drawn == {0.2, 0.3}
    assert capsys.readouterr().err.endswith("2 of 3 trials are drawn, those trained for 9 epochs\n")


def test_mistakes(tmp_path: Path) -> None:
    run = write_history(tmp_path / "pas", search_records())
    with pytest.raises(UserError, match="has no trials with f1 and parameters"):
        plot_trials(run)
    with pytest.raises(UserError, match="--against must be one of parameters, macs"):
        plot_trials(run, against="seconds")


def test_the_command(tmp_path: Path) -> None:
    run = write_history(tmp_path / "a", trials((100_000, 0.5), (300_000, 0.8)))
    assert main(["plot", "trials", str(run), "--metric", "auroc", "--out", str(tmp_path / "trials.svg")]) == 0
    assert "<svg" in (tmp_path / "trials.svg").read_text()
