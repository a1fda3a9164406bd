"""Curves of several methods in one pair of axes: openness, thresholds, and what `analyse` has measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nas_osr.errors import UserError
from nas_osr.reports.shown_runs import Runs, need, only_run, retrainings, run_folders
from nas_osr.reports.style import INK, QUIET, looks, one_axes, panels, styled, whole_ticks
from nas_osr.retrain.analysis import analysis_class
from nas_osr.retrain.analysis.base import Curve, Curves, by_method

#: What the unknown classes may be counted by, and how the axis is called.
AGAINST = {
    "openness_cac": "openness, 1 - sqrt(2K / (S + K))",
    "openness_gradmix": "openness, 1 - sqrt(K / S)",
    "unknown_classes": "unknown classes Q",
}
FEW = 12  # points of a curve, up to which each has a marker


@styled
def plot_openness(runs: Runs, *, label: str = "", against: str = "openness_cac", columns: int = 1) -> Figure:
    """Macro-F1 against openness (NAS-OSR, fig. 3) or the number Q of unknown classes (GMVAE, figs. 2 to 8).

    A band is the standard deviation over splits and seeds; of a single one that over subsets of Q classes.

    Args:
        runs: retrainings.
        label: see `ShownRun.predictions`.
        against: a key of `AGAINST`.
        columns: of a paper that the figure is as wide as.

    Raises:
        UserError: a folder holds no evaluated retraining, or there is no such axis.
    """
    if against not in AGAINST:
        raise UserError(f"plot openness: --against must be one of {', '.join(AGAINST)}, got {against}")
    lines: dict[str, list[Curve]] = {}
    for run in retrainings(runs):
        for part, result in zip(run.parts, run.results(label), strict=True):
            points = result.get("openness_f1_curve")
            if not points:
                raise UserError(f"{part.path}: no openness_f1_curve in its metrics; run nas-osr evaluate again")
            x, y = [point[against] for point in points], [point["macro_f1"] for point in points]
            lines.setdefault(run.name, []).append((x, y, [point["std"] or 0.0 for point in points]))
    figure, axes = one_axes(columns, 0.75 if columns == 1 else 0.5)
    draw_curves(axes, lines, AGAINST[against], "macro-F1")
    if against == "unknown_classes":
        whole_ticks(axes.xaxis)
    return figure


@styled
def plot_tau(runs: Runs, *, label: str = "", columns: int = 1) -> Figure:
    """F1 of known validation images against the threshold tau, with the tau that was picked (GMVAE, fig. 1).

    Args:
        runs: retrainings judged by `nc_distance` or `nc_uncertainty`; each split and seed has its curve.
        label, columns: as for `plot_openness`.

    Raises:
        UserError: a run was judged by a rule that tries no thresholds.
    """
    figure, axes = one_axes(columns, 0.75 if columns == 1 else 0.5)
    found = retrainings(runs)
    shown = [named for run in found for named in run.named_parts()]
    results = [result for run in found for result in run.results(label)]
    for (name, part), result, look in zip(shown, results, looks(), strict=False):
        source = result.get("threshold_source", {})
        if not source.get("curve"):
            raise UserError(
                f"{part.path}: rule {result.get('rule')} tries no thresholds; run nas-osr evaluate {part.path} "
                "--rule nc_distance, and plot with --label nc_distance"
            )
        tau, f1 = source["curve"]["tau"], source["curve"]["f1"]
        axes.plot(tau, f1, color=look.color, linestyle=look.linestyle)
        how = "" if source["picker"] == "derivative" else " (quantile)"
        axes.axvline(source["tau"], color=look.color, linestyle=look.linestyle, linewidth=0.8)
        height = float(np.interp(source["tau"], tau, f1))
        axes.plot([source["tau"]], [height], look.marker, color=look.color, markeredgecolor="white", markersize=6)
        axes.plot([], [], **look._asdict(), label=f"{name}: tau = {source['tau']:.2f}{how}")
    axes.set(xlabel="threshold tau", ylabel="F1 of known validation images")
    axes.legend(loc="best")
    return figure


@styled
def plot_corruption(runs: Runs, *, columns: int = 1) -> Figure:
    """Closed-set accuracy against the severity of corruptions, from analysis-corruption.json of each part.

    Args:
        runs: retrainings.
        columns: of a paper that the figure is as wide as.

    Raises:
        UserError: a run has not been analysed.
    """
    return plot_analysed("corruption", runs, columns)


@styled
def plot_area(runs: Runs, *, columns: int = 1) -> Figure:
    """The activated area S(t) of the saliency against the threshold t (GradMix); as `plot_corruption`."""
    return plot_analysed("saliency", runs, columns)


def plot_analysed(kind: str, runs: Runs, columns: int) -> Figure:
    """The curves of an analysis, from the files that `nas-osr analyse KIND` has left. Raises UserError."""
    lines: dict[str, list[Curve]] = {}
    about = None
    for run in retrainings(runs):
        for part in run.parts:
            need(part.path / f"analysis-{kind}.json", f"analyse {kind} {part.path}")
            figures = part.read_json(f"analysis-{kind}.json")
            about = analysis_class(kind)(run=str(part.path)).curves({"": figures})
            assert about is not None
            lines.setdefault(run.name, []).append(about.lines[""])
    assert about is not None
    figure, axes = one_axes(columns, 0.75 if columns == 1 else 0.5)
    draw_curves(axes, lines, about.x_label, about.y_label, logarithmic=about.logarithmic)
    return figure


@styled
def plot_curves(curves: Curves, *, columns: int = 1) -> Figure:
    """What an analysis draws: a curve for each run; of several methods one for each, the mean of its runs."""
    methods = by_method(curves.lines)
    lines = methods if len(methods) > 1 else {name: [line] for name, line in curves.lines.items()}
    figure, axes = one_axes(columns, 0.75 if columns == 1 else 0.5)
    draw_curves(axes, lines, curves.x_label, curves.y_label, logarithmic=curves.logarithmic)
    return figure


def draw_curves(
    axes: Axes, lines: Mapping[str, Sequence[Curve]], x_label: str, y_label: str, *, logarithmic: bool = False
) -> None:
    """A line for each name: the mean of its curves, with their spread as a band."""
    for (name, curves), look in zip(lines.items(), looks(), strict=False):
        x, y, spread = average_curve(curves)
        marker = look.marker if len(x) <= FEW else None
        axes.plot(x, y, color=look.color, linestyle=look.linestyle, marker=marker, markersize=3.5, label=name)
        if spread is not None:
            low, high = np.subtract(y, spread), np.add(y, spread)
            axes.fill_between(x, low, high, color=look.color, alpha=0.15, linewidth=0)
    if logarithmic:
        axes.set_xscale("log")
    elif all(float(value).is_integer() for curves in lines.values() for x, *_ in curves for value in x):
        whole_ticks(axes.xaxis)
    axes.set(xlabel=x_label, ylabel=y_label)
    if len(lines) > 1:
        axes.legend(loc="best")


def average_curve(curves: Sequence[Curve]) -> Curve:
    """The mean of curves over as many points as all have, with their standard deviation; a single one as it is."""
    if len(curves) == 1:
        return curves[0]
    length = min(len(x) for x, *_ in curves)
    heights = np.array([y[:length] for _, y, _ in curves])
    return curves[0][0][:length], heights.mean(axis=0).tolist(), heights.std(axis=0, ddof=1).tolist()


@styled
def plot_subclusters(runs: Runs, *, columns: int = 2) -> Figure:
    """Covering against reconstruction loss while networks learn, for each number of subclusters (GMVAE, fig. 6).

    A panel for each class. Thin lines are seeds; a marker is where a training ends. Lower curves cover better at equal
    reconstruction.

    Args:
        runs: one folder of `nas-osr subclusters`.
        columns: of a paper that the figure is as wide as.

    Raises:
        UserError: the folder is of something else.
    """
    run = only_run(run_folders(runs), "subclusters")
    records = run.parts[0].read_history()
    if not records or "subclusters" not in records[0]:
        raise UserError(f"{run.parts[0].path}: not a choice of subclusters; make one first: nas-osr subclusters RUN")
    classes = list(dict.fromkeys(record["class"] for record in records))
    counts = sorted({record["subclusters"] for record in records})
    by_count = dict(zip(counts, looks(), strict=False))
    figure, axes = panels(len(classes), columns, 0.75)
    for axis, name in zip(axes, classes, strict=True):
        draw_trainings(axis, [record for record in records if record["class"] == name], by_count)
        axis.set_title(name)
    for axis in axes:
        axis.set_xlabel("reconstruction loss")
    axes[0].set_ylabel("covering loss")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def draw_trainings(axes: Axes, records: Sequence[Mapping[str, Any]], by_count: Mapping[int, Any]) -> None:
    """The trainings of one class, without the epochs before the reconstruction is half way down."""
    worst = max(point["reconstruction"] for record in records for point in record["curve"])
    best = min(point["reconstruction"] for record in records for point in record["curve"])
    for count, look in by_count.items():
        own = [record["curve"] for record in records if record["subclusters"] == count]
        for number, curve in enumerate(own):
            late = [point for point in curve if point["reconstruction"] <= (worst + best) / 2]
            x, y = [point["reconstruction"] for point in late], [point["covering"] for point in late]
            axes.plot(x, y, color=look.color, linestyle=look.linestyle, linewidth=0.9)
            name = None if number else f"K = {count}"
            end = curve[-1]
            axes.plot(end["reconstruction"], end["covering"], look.marker, color=look.color, label=name, linestyle="")
    axes.tick_params(colors=QUIET, labelcolor=INK)
