"""How well known and unknown images are told apart: ROC, OSCR, and the knownness itself with its threshold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from nas_osr.evaluation.predictions import Predictions
from nas_osr.metrics.open_set import Array, auroc, dense_ranks, oscr
from nas_osr.metrics.resampling import mean_and_spread
from nas_osr.reports.shown_runs import Runs, retrainings
from nas_osr.reports.style import (
    BLUE,
    COLUMN,
    FAINT,
    INK,
    PAGE,
    UNKNOWN,
    Look,
    looks,
    new_figure,
    one_axes,
    shares,
    styled,
)

GRID = np.linspace(0.0, 1.0, 201)
BINS = 30
#: Of the images, how many lie beyond either end of a knownness axis.
BEYOND = 0.002
WIDE = 100.0  # a ratio of positive knownness from which its axis is logarithmic


@styled
def plot_roc(runs: Runs, *, label: str = "", columns: int = 1) -> Figure:
    """Known images accepted against unknown ones accepted, over all thresholds; a dot is the run's own threshold.

    Of a run over splits and seeds the mean at each rate of false acceptance, with its standard deviation as a band. The
    dot of rule `cap`, whose first stage rejects too, may lie under the curve.

    Args:
        runs: retrainings.
        label: see `ShownRun.predictions`.
        columns: of a paper that the figure is as wide as.

    Raises:
        UserError: a folder holds no evaluated retraining with known and unknown test images.
    """
    figure, axes = one_axes(columns, 0.85 if columns == 1 else 0.6)
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=0.8)
    for run, look in zip(retrainings(runs), looks(), strict=False):
        predictions = run.predictions(label)
        draw_rates(axes, look, f"{run.name}  AUROC", predictions, roc_points, roc_area)
        draw_threshold(axes, look, predictions, lambda found, known: found.predicted_label[known] < found.num_known)
    shares(axes, "unknown images accepted (FPR)", "known images accepted (TPR)")
    axes.legend(loc="lower right")
    return figure


@styled
def plot_oscr(runs: Runs, *, label: str = "", columns: int = 1) -> Figure:
    """Known images accepted and classified rightly against unknown ones accepted (Dhamija et al. 2018).

    Arguments, bands, dots and errors are those of `plot_roc`.
    """
    figure, axes = one_axes(columns, 0.85 if columns == 1 else 0.6)
    for run, look in zip(retrainings(runs), looks(), strict=False):
        predictions = run.predictions(label)
        draw_rates(axes, look, f"{run.name}  OSCR", predictions, oscr_points, oscr_area)
        draw_threshold(axes, look, predictions, lambda found, known: (found.predicted_label == found.true_label)[known])
    shares(axes, "unknown images accepted (FPR)", "known images rightly classified (CCR)")
    axes.legend(loc="lower right")
    return figure


def draw_rates(
    axes: Axes,
    look: Look,
    name: str,
    predictions: Sequence[Predictions],
    points: Callable[[Predictions], tuple[Array, Array]],
    area: Callable[[Predictions], float | None],
) -> None:
    """The curve of one method, with its area in the legend: of several parts their mean, and a band."""
    figure = mean_and_spread([{"area": area(found)} for found in predictions])["area"]
    spread = "" if figure["std"] is None else f" ± {100 * figure['std']:.1f}"
    x, y = points(predictions[0])
    if len(predictions) > 1:
        # the last point at each rate of false acceptance, so that a step counts with its upper end
        curves = np.array([np.interp(GRID, *upper_ends(*points(found))) for found in predictions])
        y, band = curves.mean(axis=0), curves.std(axis=0, ddof=1)
        axes.fill_between(GRID, y - band, (y + band).clip(max=1), color=look.color, alpha=0.15, linewidth=0)
        x, y = np.append(0.0, GRID), np.append(0.0, y)
    axes.plot(x, y, color=look.color, linestyle=look.linestyle)
    axes.plot([], [], **look._asdict(), label=f"{name} {100 * figure['mean']:.1f}{spread}")


def draw_threshold(
    axes: Axes, look: Look, predictions: Sequence[Predictions], right: Callable[[Predictions, Array], Array]
) -> None:
    """A dot at the rates of the run's own threshold, in the mean over its parts."""
    known = [found.true_label < found.num_known for found in predictions]
    sides = list(zip(predictions, known, strict=True))
    x = np.mean([np.mean(found.predicted_label[~mask] < found.num_known) for found, mask in sides])
    y = np.mean([np.mean(right(found, mask)) for found, mask in sides])
    axes.plot([x], [y], look.marker, color=look.color, markeredgecolor="white", markeredgewidth=0.8, markersize=6)


def upper_ends(x: Array, y: Array) -> tuple[Array, Array]:
    """The last point of a rising curve at each x."""
    last = np.append(np.diff(x) > 0, True)
    return x[last], y[last]


def roc_points(predictions: Predictions) -> tuple[Array, Array]:
    """False and true acceptance [T], each rising from 0 to 1, known positive."""
    known = predictions.true_label < predictions.num_known
    false, true, _ = roc_curve(known, dense_ranks(predictions.knownness), drop_intermediate=False)
    return false, true


def roc_area(predictions: Predictions) -> float | None:
    """`nas_osr.metrics.open_set.auroc`."""
    return auroc(predictions.knownness, predictions.true_label == predictions.num_known)


def oscr_points(predictions: Predictions) -> tuple[Array, Array]:
    """False acceptance and correct classification [T] at every threshold; see `nas_osr.metrics.open_set.oscr`."""
    known = predictions.true_label < predictions.num_known
    right = known & (predictions.closed_set_label == predictions.true_label)
    ranks = dense_ranks(predictions.knownness)

    def accepted(mask: Array) -> Array:
        return np.append(0.0, np.cumsum(np.bincount(ranks[mask], minlength=ranks.max() + 1)[::-1]))

    return accepted(~known) / np.sum(~known), accepted(right) / np.sum(known)


def oscr_area(predictions: Predictions) -> float | None:
    """`nas_osr.metrics.open_set.oscr`."""
    columns = predictions.closed_set_label, predictions.true_label
    return oscr(predictions.knownness, *columns, predictions.num_known)


@styled
def plot_histogram(runs: Runs, *, label: str = "") -> Figure:
    """The knownness of known and of unknown test images, of each unknown class by itself, and the threshold.

    Below the histogram a row for the known images and each unknown class: the median, half of the images (thick) and
    nine tenths of them (thin), the most known class on top. A panel for each split and seed, since each has a scale of
    its own; logarithmic where all values are positive and differ a hundredfold. An image in 500 may lie beyond either
    end; infinite values do.

    Args:
        runs, label: as for `plot_roc`.

    Raises:
        UserError: as there.
    """
    shown = retrainings(runs)
    titles = [name for run in shown for name, _ in run.named_parts()]
    predictions = [found for run in shown for found in run.predictions(label)]
    thresholds = [result["threshold"] for run in shown for result in run.results(label)]
    rows = max(len(unknown_names(found)) for found in predictions) + 1
    height = 1.7 + 0.16 * rows
    width = COLUMN if len(titles) == 1 else max(PAGE, 2.6 * len(titles))
    figure = new_figure(1, 1.0)
    figure.set_size_inches(width, height)
    ratios = [1.5, 0.16 * rows]
    grid = figure.subplots(2, len(titles), squeeze=False, sharex="col", height_ratios=ratios)
    for place, (title, found, threshold) in enumerate(zip(titles, predictions, thresholds, strict=True)):
        draw_knownness(grid[0, place], found, threshold)
        draw_classes(grid[1, place], found, threshold)
        grid[0, place].set_title(title)
        grid[1, place].set_xlabel("knownness")
    grid[0, 0].set_ylabel("share of images")
    grid[0, 0].legend(loc="best")
    return figure


def unknown_names(predictions: Predictions) -> list[str]:
    """The unknown classes, the one that is taken for most known first."""
    unknown = predictions.true_label == predictions.num_known
    names = sorted(set(predictions.true_class[unknown].tolist()))

    def median(name: str) -> float:
        return float(np.median(predictions.knownness[unknown & (predictions.true_class == name)]))

    return sorted(names, key=median, reverse=True)


def finite_range(knownness: Array) -> tuple[float, float]:
    """Where nearly all finite values lie; see `BEYOND`."""
    finite = knownness[np.isfinite(knownness)]
    low, high = np.quantile(finite, [BEYOND, 1 - BEYOND]) if len(finite) else (0.0, 1.0)
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def draw_knownness(axes: Axes, predictions: Predictions, threshold: float | None) -> None:
    """Histograms of both sides: of each side's images, the share in each bin."""
    low, high = finite_range(predictions.knownness)
    wide = low > 0 and high > WIDE * low
    edges = np.geomspace(low, high, BINS + 1) if wide else np.linspace(low, high, BINS + 1)
    if wide:
        axes.set_xscale("log")
    known = predictions.true_label < predictions.num_known
    for mask, name, color, hatch in ((known, "known", BLUE, ""), (~known, "unknown", UNKNOWN, "////")):
        values = predictions.knownness[mask]
        values = values[(values >= low) & (values <= high)]
        weights = np.full(len(values), 1.0 / max(mask.sum(), 1))
        style: dict[str, Any] = {"histtype": "stepfilled", "edgecolor": color, "linewidth": 1.2, "hatch": hatch}
        axes.hist(
            values, edges.tolist(), weights=weights, label=name, facecolor=(color, 0.3 if not hatch else 0.12), **style
        )
    draw_cut(axes, threshold, "threshold")


def draw_classes(axes: Axes, predictions: Predictions, threshold: float | None) -> None:
    """A row for the known images and for each unknown class."""
    unknown = predictions.true_label == predictions.num_known
    names = unknown_names(predictions)
    groups = {"all known": predictions.knownness[~unknown]}
    groups |= {name: predictions.knownness[unknown & (predictions.true_class == name)] for name in names}
    low, high = finite_range(predictions.knownness)
    for row, (_name, values) in enumerate(groups.items()):
        color = UNKNOWN if row else BLUE
        ends = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95], method="nearest").clip(low, high)
        axes.hlines(row, ends[0], ends[4], color=color, linewidth=0.9)
        axes.hlines(row, ends[1], ends[3], color=color, linewidth=4.5, alpha=0.45)
        axes.plot(ends[2], row, "s" if row else "o", color=color, markersize=3.5)
    axes.set_yticks(range(len(groups)), [shorten(name) for name in groups])
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    draw_cut(axes, threshold, None)


def draw_cut(axes: Axes, threshold: float | None, name: str | None) -> None:
    """The threshold, a line from top to bottom."""
    if threshold is not None:
        axes.axvline(threshold, color=INK, linestyle=(0, (3, 2)), linewidth=1.0, label=name)


def shorten(name: str, length: int = 14) -> str:
    """A name of a class that leaves room for the figure."""
    return name if len(name) <= length else f"{name[: length - 1]}\u2026"
