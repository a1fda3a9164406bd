"""How a search or a training went, epoch by epoch or trial by trial, from history.jsonl."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nas_osr.errors import UserError
from nas_osr.reports.shown_runs import Runs, run_folders
from nas_osr.reports.style import QUIET, Look, looks, new_figure, panels, styled, whole_ticks

Record = Mapping[str, Any]
Series = tuple[list[int], list[float]]
#: Figures of a record that are shares, with what they are called; the first panel after the losses.
SCORES = {
    "f1": "F1, supernet",
    "auroc": "AUROC, supernet",
    "discrete_f1": "F1, decoded",
    "discrete_auroc": "AUROC, decoded",
    "validation_accuracy": "accuracy, validation",
}
OF_TRIALS = {"f1": "F1", "auroc": "AUROC"}
OTHERS = {"error of the decoder": ("decoder_share",), "spread of embeddings": ("monitors", "embedding_spread")}
TOTAL = "total"
WIDE_LOSSES = 30.0  # a ratio of losses from which their axis is logarithmic
ACROSS = 4  # small panels of alphas and betas in a row


@styled
def plot_history(runs: Runs, *, columns: int = 2) -> Figure:
    """Losses by term, F1 and AUROC over the epochs; of a search also alphas and betas along the chosen path.

    Several runs, or several splits and seeds, share panels: one for each figure, the sum of the losses among them. With
    strategies that try architectures the trials take the epochs' place.

    Args:
        runs: searches or retrainings, also unfinished ones.
        columns: of a paper that the figure is as wide as.

    Raises:
        UserError: a folder is no run, or has no epoch yet.
    """
    histories: dict[str, list[Sequence[Record]]] = {}
    for run in run_folders(runs):
        for part in run.parts:
            records: Sequence[Record] = part.read_history()
            if not records or "losses" not in records[-1]:
                raise UserError(f"{part.path}: history.jsonl has no epoch of a search or a training")
            histories.setdefault(run.name, []).append(records)
    if sum(map(len, histories.values())) > 1:
        return draw_together(histories, columns)
    [[records]] = histories.values()
    return draw_one(records, columns)


def draw_one(records: Sequence[Record], columns: int) -> Figure:
    """One history: losses, scores, and of a search alphas and betas in rows of small panels."""
    weights = chosen_weights(records)
    heights = [1.6, *(math.ceil(len(cells) / ACROSS) for cells in weights)]
    figure = new_figure(columns, 0.27 * sum(heights) if columns == 2 else 0.55 * (sum(heights) + 1.6))
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False).flatten()
    left, right = parts[0].subplots(*((1, 2) if columns == 2 else (2, 1)))
    draw_losses(left, records)
    trials = records[-1].get("phase") == "trial"
    names = OF_TRIALS if trials else SCORES
    lines = {title: series(records, key) for key, title in names.items()}
    for (name, (x, y)), look in zip(((n, line) for n, line in lines.items() if line[1]), looks(), strict=False):
        style: dict[str, Any] = (
            {"linestyle": "none", "marker": look.marker} if trials else {"linestyle": look.linestyle}
        )
        right.plot(x, y, color=look.color, label=name, **style)
    right.set_title("held-out known and pseudo-unknown images" if "f1" in records[-1] else "known validation images")
    for axes in (left, right):
        axes.set_xlabel("trial" if trials else "epoch")
        whole_ticks(axes.xaxis)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=6.5, frameon=False)
    for part, cells in zip(parts[1:], weights, strict=True):
        draw_weights(part, cells, records)
    return figure


def draw_losses(axes: Axes, records: Sequence[Record]) -> None:
    """A colour for each term; the same term of the architecture step, or on validation images, is dashed."""
    terms = {name: records[-1]["losses"][name] for name in records[-1]["losses"] if "/" not in name}
    other = "validation_losses" if "validation_losses" in records[-1] else "losses"
    values = []
    for name, look in zip(terms, looks(), strict=False):
        x, y = series(records, "losses", name)
        axes.plot(x, y, color=look.color, linewidth=1.2, label=name)
        beside = name if other == "validation_losses" else f"architecture/{name}"
        x, z = series(records, other, beside)
        axes.plot(x, z, color=look.color, linewidth=1.0, linestyle=(0, (2, 1.5)))
        values += y + z
        if z and name == list(terms)[-1]:
            named = "on validation images" if other == "validation_losses" else "of the architecture step"
            axes.plot([], [], color=QUIET, linewidth=1.0, linestyle=(0, (2, 1.5)), label=named)
    if values and min(values) > 0 and max(values) > WIDE_LOSSES * min(values):
        axes.set_yscale("log")
    axes.set_title("losses by term")


def draw_together(histories: Mapping[str, Sequence[Sequence[Record]]], columns: int) -> Figure:
    """Several histories: a panel for each figure that one of them has, a look for each run."""
    places = {"sum of the losses": (TOTAL,), **{title: (key,) for key, title in SCORES.items()}, **OTHERS}
    histories = {name: [add_total(records) for records in own] for name, own in histories.items()}
    everything = [records for own in histories.values() for records in own]
    shown = {title: keys for title, keys in places.items() if any(series(r, *keys)[1] for r in everything)}
    figure, axes = panels(len(shown), columns, 0.75)
    for axis, (title, keys) in zip(axes, shown.items(), strict=True):
        for (name, own), look in zip(histories.items(), looks(), strict=False):
            for number, records in enumerate(own):
                epochs, values = series(records, *keys)
                style: dict[str, Any] = {
                    "color": look.color,
                    "linestyle": look.linestyle,
                    "linewidth": 1.3 if len(own) == 1 else 0.9,
                }
                axis.plot(epochs, values, label=None if number else name, **style)
        axis.set_title(title)
        axis.set_xlabel("epoch")
        heights = np.concatenate([np.asarray(line.get_ydata(), np.float64) for line in axis.lines]).tolist()
        if title == "sum of the losses" and min(heights) > 0 and max(heights) > WIDE_LOSSES * min(heights):
            axis.set_yscale("log")
        whole_ticks(axis.xaxis)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4), frameon=False)
    return figure


def add_total(records: Sequence[Record]) -> list[Record]:
    """The records with the sum of the losses of the weights, validation and architecture aside."""
    own = [[value for name, value in record["losses"].items() if "/" not in name] for record in records]
    return [{**record, TOTAL: sum(values)} for record, values in zip(records, own, strict=True)]


def series(records: Sequence[Record], *keys: str) -> Series:
    """The epochs, counted from 1, whose record has a number under these nested keys, and the numbers."""
    pairs = []
    for number, record in enumerate(records, start=1):
        value: Any = record
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None:
            pairs.append((number, float(value)))
    return [number for number, _ in pairs], [value for _, value in pairs]


def chosen_weights(records: Sequence[Record]) -> list[list[tuple[str, str]]]:
    """Rows of panels, each the kind of weight and a cell "layer/scale" that the last epoch decodes to.

    Betas only of cells with a choice. No row where the strategy has no weights.
    """
    last = records[-1]
    if "alpha" not in last or "branches" not in last:
        return []
    cells = dict.fromkeys(
        f"{layer}/{scale}" for branch in last["branches"].values() for layer, scale in enumerate(branch["path"])
    )
    alphas = [("alpha", cell) for cell in cells if cell in last["alpha"]]
    betas = [("beta", cell) for cell in last["beta"] if sum(share > 0 for share in last["beta"][cell].values()) > 1]
    return [row for row in (alphas, betas) if row]


def draw_weights(figure: Any, cells: Sequence[tuple[str, str]], records: Sequence[Record]) -> None:
    """A small panel for each cell: the probability of each operation, or of each way into it, over the epochs."""
    grid = figure.subplots(math.ceil(len(cells) / ACROSS), ACROSS, squeeze=False, sharey=True, sharex=True)
    names = dict.fromkeys(name for kind, cell in cells for name in records[-1][kind][cell])
    by_name: dict[str, Look] = dict(zip(names, looks(), strict=False))
    for axes, (kind, cell) in zip(grid.flat, cells, strict=False):
        for name, look in by_name.items():
            x, y = series(records, kind, cell, name)
            axes.plot(x, y, color=look.color, linestyle=look.linestyle, label=name, linewidth=1.1)
        layer, scale = cell.split("/")
        axes.set_title(f"layer {layer}, scale 1/{4 << int(scale)}", fontsize=7, fontweight="normal", color=QUIET)
        axes.set_ylim(-0.02, 1.02)
        whole_ticks(axes.xaxis, 5)
        axes.set_xlabel("epoch")
    for empty in grid.flat[len(cells) :]:
        empty.remove()
    kind = cells[0][0]
    grid[0, 0].set_ylabel(kind)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=7)
