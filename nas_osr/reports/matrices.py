"""Which class is taken for which: one matrix with a column for "unknown" (CAC, fig. 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nas_osr.evaluation.predictions import Predictions
from nas_osr.metrics.open_set import Array
from nas_osr.reports.detection import shorten
from nas_osr.reports.shown_runs import Runs, only_run, retrainings
from nas_osr.reports.style import BLUES, INK, PAGE, QUIET, new_figure, styled
from nas_osr.retrain.analysis.confusion import label_names

REJECTED = "unknown"
CELL = 0.3  # inches at most
MOST_NUMBERS, MOST_NAMES = 24, 60  # columns with a number in each cell, and rows or columns with their names


@styled
def plot_confusion(runs: Runs, *, label: str = "", accepted: bool = False, closed: bool = False) -> Figure:
    """Of each true class the share of its images that gets each label, pooled over splits and seeds.

    Above the line the classes that are known, below it those that are unknown. A class may be known in one split and
    unknown in another; a cell is empty where the two classes never met.

    Args:
        runs: one retraining.
        label: see `ShownRun.predictions`.
        accepted: only of the images that are not rejected.
        closed: ignore the threshold: the most likely known class of each image.

    Raises:
        UserError: several retrainings, or none that is evaluated.
    """
    run = only_run(retrainings(runs), "confusion")
    rows, columns, matrix, known = pooled_confusion(run.predictions(label), accepted=accepted, closed=closed)
    cell = min(CELL, (PAGE - 1.3) / len(columns))
    figure = new_figure(1, 1.0)
    figure.set_size_inches(max(3.0, cell * len(columns) + 1.3), cell * len(rows) + 1.1)
    axes = figure.add_subplot()
    axes.imshow(np.ma.masked_invalid(matrix), cmap=BLUES, vmin=0, vmax=1, aspect="auto")
    axes.set_facecolor("#eef1f4")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    name_sides(axes, rows, columns)
    if len(columns) <= MOST_NUMBERS:
        write_shares(axes, matrix)
    axes.axhline(known - 0.5, color=INK, linewidth=1.0)
    if REJECTED in columns:
        axes.axvline(len(columns) - 1.5, color=INK, linewidth=1.0)
    what = "of accepted images" if accepted else "without the threshold" if closed else "of all images"
    axes.set_xlabel(f"label given, % {what}")
    axes.set_ylabel("true class: known above, unknown below the line")
    return figure


def pooled_confusion(
    predictions: Sequence[Predictions], *, accepted: bool = False, closed: bool = False
) -> tuple[list[str], list[str], Array, int]:
    """The matrix of `plot_confusion`, of counts added up over splits and seeds.

    Returns:
        names of the rows [R] and of the columns [C]; shares [R, C], NaN where row and column never met, or where no
        image of the row is left; and how many of the rows are known classes.
    """
    counts: dict[tuple[bool, str], dict[str, int]] = {}
    for found in predictions:
        labels = [*label_names(found), REJECTED]
        given = found.closed_set_label if closed else found.predicted_label
        offered = labels[:-1] if accepted or closed else labels
        for unknown in (False, True):
            side = (found.true_label == found.num_known) == unknown
            names = found.true_class if unknown else np.array(labels)[found.true_label]
            for name in sorted(set(names[side].tolist())):
                numbers = np.bincount(given[side & (names == name)], minlength=len(labels))
                row = counts.setdefault((unknown, name), {})
                for column, number in zip(offered, numbers.tolist(), strict=False):
                    row[column] = row.get(column, 0) + number
    rows = sorted(counts)
    columns = sorted({column for row in counts.values() for column in row} - {REJECTED})
    columns += [REJECTED] if not (accepted or closed) else []
    matrix = np.array([[counts[row].get(column, np.nan) for column in columns] for row in rows], dtype=np.float64)
    totals = np.nansum(matrix, axis=1, keepdims=True)
    matrix = np.divide(matrix, totals, out=np.full_like(matrix, np.nan), where=totals > 0)
    return [name for _, name in rows], columns, matrix, sum(not unknown for unknown, _ in rows)


def name_sides(axes: Axes, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Names beside rows and columns, where there is room for them."""
    slanted = max(map(len, set(columns) - {REJECTED})) > 3
    turned: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    axes.set_xticks(range(len(columns)), list(map(shorten, columns)) if len(columns) <= MOST_NAMES else [], **turned)
    axes.set_yticks(range(len(rows)), list(map(shorten, rows)) if len(rows) <= MOST_NAMES else [])
    axes.tick_params(length=0)
    for axis, count in ((axes.xaxis, len(columns)), (axes.yaxis, len(rows))):
        axis.set_ticks(np.arange(1, count) - 0.5, minor=True)
    axes.grid(which="minor", linewidth=0.4)
    axes.tick_params(which="minor", length=0)


def write_shares(axes: Axes, matrix: Array) -> None:
    """Each share in percent in its cell; less than half a percent stays away."""
    for (row, column), share in np.ndenumerate(matrix):
        if share >= 0.005:
            color = "white" if share > 0.6 else INK if share > 0.05 else QUIET
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=color, fontsize=6)
