"""ROC, OSCR and knownness: what is drawn is what the metrics measure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas_osr.errors import UserError
from nas_osr.evaluation.predictions import read_predictions, write_predictions
from nas_osr.metrics.open_set import auroc, oscr
from nas_osr.reports.detection import (
    finite_range,
    oscr_points,
    plot_histogram,
    plot_oscr,
    plot_roc,
    roc_points,
    unknown_names,
)
from nas_osr.reports.shown_runs import by_name


def line_of(figure: Any, number: int = 0) -> tuple[Any, Any]:
    """The curves of a figure that have more than one point, the diagonal aside."""
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) > 2]
    return lines[number].get_data()


@pytest.mark.parametrize("shift", [0.0, 0.7, 3.0])
def test_areas_under_the_points_are_the_metrics(shift: float, method: Callable[..., Path], tmp_path: Path) -> None:
    found = read_predictions(method(tmp_path / "run", shift, "0") / "split-0" / "predictions.csv")
    unknown = found.true_label == found.num_known
    assert np.trapezoid(*roc_points(found)[::-1]) == pytest.approx(auroc(found.knownness, unknown))
    columns = found.closed_set_label, found.true_label, found.num_known
    assert np.trapezoid(*oscr_points(found)[::-1]) == pytest.approx(oscr(found.knownness, *columns))
    for points in (roc_points, oscr_points):
        x, y = points(found)
        assert (x[0], y[0], x[-1]) == (0, 0, 1) and (np.diff(x) >= 0).all() and (np.diff(y) >= 0).all()


def test_one_split_is_drawn_as_it_is_and_several_as_their_mean(method: Callable[..., Path], tmp_path: Path) -> None:
    run = method(tmp_path / "run")
    parts = [read_predictions(run / name / "predictions.csv") for name in ("split-0", "split-1")]
    for plot, points in ((plot_roc, roc_points), (plot_oscr, oscr_points)):
        x, y = line_of(plot(run / "split-0"))
        assert np.array_equal((x, y), points(parts[0]))
        x, y = line_of(plot(run))
        at = 0.3  # how many known images are accepted at least where at most 30 % of the unknown ones are
        heights = [max(ccr for fpr, ccr in zip(*points(part), strict=True) if fpr <= at) for part in parts]
        place = np.flatnonzero(np.isclose(x, at))[0]
        assert y[place] == pytest.approx(np.mean(heights), abs=0.03)
        assert (x[0], y[0]) == (0, 0)


def test_the_dot_is_the_threshold_and_the_legend_names_the_area(method: Callable[..., Path], tmp_path: Path) -> None:
    runs = {"first": method(tmp_path / "a", 3.0, "0"), "second": method(tmp_path / "b", 1.0)}
    figure = plot_roc(runs)
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    metrics = json.loads((runs["first"] / "split-0" / "metrics.json").read_text())["metrics"]
    assert texts[0] == f"first  AUROC {100 * metrics['auroc']:.1f}"
    both = [
        json.loads((runs["second"] / f"split-{k}" / "metrics.json").read_text())["metrics"]["auroc"] for k in (0, 1)
    ]
    assert texts[1] == f"second  AUROC {100 * np.mean(both):.1f} ± {100 * np.std(both, ddof=1):.1f}"
    [dot] = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 1][:1]
    assert dot.get_xdata()[0] == pytest.approx(1 - metrics["rejected_unknown"])
    assert dot.get_ydata()[0] == pytest.approx(metrics["accepted_known"])


def test_the_histogram_has_every_class_and_the_threshold(method: Callable[..., Path], tmp_path: Path) -> None:
    run = method(tmp_path / "run")
    figure = plot_histogram(run)
    top, bottom = figure.axes[0], figure.axes[2]
    assert top.get_title(loc="left") == "run, split 0"
    assert [line.get_xdata()[0] for line in top.lines] == [0.5]
    found = read_predictions(run / "split-0" / "predictions.csv")
    assert [label.get_text() for label in bottom.get_yticklabels()] == ["all known", *unknown_names(found)]
    medians = [np.median(found.knownness[found.true_class == name]) for name in unknown_names(found)]
    assert sorted(unknown_names(found)) == ["d", "e"] and medians == sorted(medians, reverse=True)


def test_infinite_and_wide_knownness_is_shown(method: Callable[..., Path], tmp_path: Path) -> None:
    part = method(tmp_path / "run", splits="0") / "split-0"
    found = read_predictions(part / "predictions.csv")
    endless = found.knownness.copy()
    endless[:3] = -np.inf
    assert np.isfinite(finite_range(endless)).all()
    assert finite_range(np.full(5, 2.0)) == (1.5, 2.5)
    write_predictions(part / "predictions.csv", replace(found, knownness=endless))
    assert plot_histogram(part).axes[0].get_xscale() == "linear"
    write_predictions(part / "predictions.csv", replace(found, knownness=np.exp(5 * found.knownness)))
    assert plot_histogram(part).axes[0].get_xscale() == "log"


def test_missing_results_are_told_with_what_makes_them(method: Callable[..., Path], tmp_path: Path) -> None:
    run = method(tmp_path / "run")
    with pytest.raises(
        UserError, match=r"predictions-mls.csv: not there; make it first: nas-osr evaluate .* --rule mls"
    ):
        plot_roc(run, label="mls")
    (run / "split-1" / "predictions.csv").unlink()
    with pytest.raises(UserError, match="make it first: nas-osr evaluate"):
        plot_roc(run)
    found = read_predictions(run / "split-0" / "predictions.csv")
    known = found.true_label < found.num_known
    only = {name: value[known] for name, value in vars(found).items() if name != "column"}
    write_predictions(run / "split-0" / "predictions.csv", replace(found, **only))
    with pytest.raises(UserError, match="no image of an unknown class"):
        plot_roc(run / "split-0")


def test_runs_of_one_name_are_told_apart_by_the_folders_around(method: Callable[..., Path], tmp_path: Path) -> None:
    for name in ("a/run", "b/run"):
        method(tmp_path / name, splits="0")
    texts = [
        text.get_text()
        for text in plot_roc([tmp_path / "a" / "run", tmp_path / "b" / "run"]).axes[0].get_legend().get_texts()
    ]
    assert [text.split()[0] for text in texts] == ["a/run", "b/run"]
    assert len(plot_roc(tmp_path).axes[0].get_legend().get_texts()) == 2  # a folder of several
    with pytest.raises(UserError, match="both have split 0, seed 0"):
        plot_roc({"x": tmp_path})
    method(tmp_path / "b" / "run-1", splits="1")
    [text] = plot_roc({"x": tmp_path / "b"}).axes[0].get_legend().get_texts()  # two splits of one method
    assert re.fullmatch(r"x  AUROC \d\d\.\d ± \d+\.\d", text.get_text())
    texts = plot_roc(tmp_path / "b" / "run*").axes[0].get_legend().get_texts()  # two runs, which nobody called one
    assert [text.get_text().split()[0] for text in texts] == ["run", "run-1"]
    (tmp_path / "b" / "run.log").write_text("")  # a pattern passes over what is no folder
    assert len(plot_roc([tmp_path / "b" / "run*"]).axes[0].get_legend().get_texts()) == 2
    assert list(by_name([tmp_path / "b" / "run*"])) == ["run", "run-1"]
    method(tmp_path / "b" / "other", splits="2", protocol="svhn")
    with pytest.raises(UserError, match="x: is the name of retrainings on cifar10 .* and svhn .*: name each"):
        plot_roc({"x": tmp_path / "b"})
