"""What the trials of searches found, and at what size: the Pareto front of what was tried."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from nas_osr.errors import UserError
from nas_osr.metrics.fronts import pareto_front
from nas_osr.reports.shown_runs import Runs, need, run_folders
from nas_osr.reports.style import FAINT, looks, one_axes, styled
from nas_osr.reports.summaries import SIZES
from nas_osr.runs.progress import tell
from nas_osr.strategies.trials.front import trained_longest

SIZES_OF_TRIALS = {  # by name: what the axis is called, and its unit
    **{name: (text, 1e6) for name, text in SIZES.items()},
    "memory": ("megabytes at prediction", 1e6),
    "latency": ("milliseconds an image", 1.0),
}
SCORES = {"f1": "F1", "auroc": "AUROC", "oscr": "OSCR"}


@styled
def plot_trials(runs: Runs, *, metric: str = "f1", against: str = "parameters", columns: int = 1) -> Figure:
    """The score of every trial of one search or several against the size of its network, and the front of all.

    Of a search that trains some for longer, as `halving` does, those that were trained longest. Filled: on the front,
    which no other trial beats in both. Scores are of held-out known and pseudo-unknown images.

    Args:
        runs: searches that try architectures, also unfinished ones.
        metric: f1, auroc or oscr.
        against: a key of `SIZES_OF_TRIALS`.
        columns: of a paper that the figure is as wide as.

    Raises:
        UserError: a run has no trial yet, or an option is none of these.
    """
    for name, value, known in (("metric", metric, SCORES), ("against", against, SIZES_OF_TRIALS)):
        if value not in known:
            raise UserError(f"plot trials: --{name} must be one of {', '.join(known)}, got {value}")
    text, unit = SIZES_OF_TRIALS[against]
    sizes: list[float] = []
    scores: list[float] = []
    owners: list[str] = []
    for run in run_folders(runs):
        for part in run.parts:
            need(part.path / "history.jsonl", "search --strategy evolution")
            records = [record for record in part.read_history() if record.get("phase") == "trial"]
            if not records or any(metric not in record or against not in record for record in records):
                raise UserError(f"{part.path}: its history has no trials with {metric} and {against}")
            longest = trained_longest(records)
            if len(longest) < len(records):
                epochs = longest[0]["trained_epochs"]
                tell(
                    f"{part.path}: {len(longest)} of {len(records)} trials are drawn, those trained for {epochs} epochs"
                )
            records = longest
            sizes += [record[against] / unit for record in records]
            scores += [100 * record[metric] for record in records]
            owners += [run.name] * len(records)
    x, y = np.array(sizes), np.array(scores)
    figure, axes = one_axes(columns, 0.8 if columns == 1 else 0.5)
    front = pareto_front(x, y)
    axes.step(x[front], y[front], where="post", color=FAINT, linewidth=1.2, zorder=1)
    on_front = np.isin(np.arange(len(x)), front)
    for name, look in zip(dict.fromkeys(owners), looks(), strict=False):
        own = np.array([owner == name for owner in owners])
        style: dict[str, Any] = {"linestyle": "", "markeredgecolor": look.color, "markersize": 5}
        beaten, best = own & ~on_front, own & on_front
        axes.plot(x[beaten], y[beaten], look.marker, markerfacecolor="white", **style)
        axes.plot(x[best], y[best], look.marker, markerfacecolor=look.color, label=name, **style)
    axes.set(xlabel=text, ylabel=f"{SCORES[metric]} (%)")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure
