"""What tables of trained architectures say: what there is to find, what tells it, and which strategy finds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nas_osr.errors import UserError
from nas_osr.reports.shown_runs import Runs, by_name
from nas_osr.reports.style import QUIET, looks, one_axes, styled
from nas_osr.strategies.table import SearchTable, read_table
from nas_osr.strategies.table_report import compare_strategies, correlate, describe_spread
from nas_osr.strategies.table_trials import Conditions, can_answer

CRITERIA = 12  # are drawn, the best of a table's
COSTS = (2, 4, 8, 16, 32, 64)  # whole trainings
SEARCHES = 100  # of each strategy
SHORT = 18  # letters of a name, of which two go below a figure side by side


@styled
def plot_spread(runs: Runs, *, columns: int = 1) -> Figure:
    """True AUROC of every architecture of one table or several, means over seeds, from the best to the worst.

    The band is what seeds alone make of architectures that are all as good as the table's mean: the quantiles of means
    over as many seeds with the table's noise. Where the line stays within it there is nothing to find. A table of one
    seed does not know its noise and has no band.

    Args:
        runs: tables, or their folders.
        columns: of a paper that the figure is as wide as.

    Raises:
        UserError: there is no such table.
    """
    figure, axes = one_axes(columns, 0.8 if columns == 1 else 0.5)
    for (name, table), look in zip(tables(runs).items(), looks(), strict=False):
        rule = table.check_rule(None)
        means = np.sort(table.true(rule, "auroc")[:, :, -1].mean(axis=1))[::-1]
        place = 100 * (np.arange(len(means)) + 0.5) / len(means)
        noise = describe_spread(table, rule)["noise"]
        if noise is not None:
            drawn = np.sort(np.random.default_rng(0).standard_normal((1000, len(means))))[:, ::-1]
            chance = means.mean() + noise / np.sqrt(table.header["seeds"]) * drawn
            low, high = 100 * np.quantile(chance, (0.025, 0.975), axis=0)
            axes.fill_between(place, low, high, color=look.color, alpha=0.18, linewidth=0)
        axes.plot(place, 100 * means, color=look.color, linestyle=look.linestyle, label=f"{name}, {len(means)}")
    axes.set(xlabel="architectures, best first (%)", ylabel="AUROC, mean over seeds (%)", xlim=(0, 100))
    place_legend(figure, axes)
    return figure


@styled
def plot_criteria(runs: Runs, *, columns: int = 1) -> Figure:
    """Rank correlation of what a search could go by with true AUROC, with 95 % intervals over architectures.

    Args:
        runs: tables, or their folders; the criteria are those of the first, its best ones.
        columns: of a paper that the figure is as wide as.

    Raises:
        UserError: there is no such table, or nothing differs between the architectures of the first.
    """
    found = {name: correlate(table, table.check_rule(None)) for name, table in tables(runs).items()}
    first = next(iter(found))
    criteria = list(found[first])[:CRITERIA][::-1]
    if not criteria:
        raise UserError(f"plot criteria: {first}: nothing differs between its architectures")
    figure, axes = one_axes(columns, (0.25 + 0.07 * len(criteria)) / (1 if columns == 1 else 2))
    places = np.arange(len(criteria))
    for number, ((name, own), look) in enumerate(zip(found.items(), looks(), strict=False)):
        middle, low, high = np.array([own.get(criterion, (np.nan,) * 3) for criterion in criteria]).T
        shifted = places + 0.22 * ((len(found) - 1) / 2 - number)
        ends = np.maximum((middle - low, high - middle), 0)
        style: Any = {"color": look.color, "marker": look.marker, "linestyle": "", "elinewidth": 1}
        axes.errorbar(middle, shifted, xerr=ends, label=name, **style)
    axes.axvline(0, color=QUIET, linewidth=0.8)
    axes.set(xlabel="rank correlation with true AUROC", yticks=places, yticklabels=criteria)
    place_legend(figure, axes)
    return figure


@styled
def plot_regret(runs: Runs, *, metric: str = "auroc", columns: int = 1) -> Figure:
    """How far what each strategy takes is below the best of a table, in points of true AUROC, over its cost.

    Means over 100 searches with 95 % intervals; a whole training costs 1, and each architecture has one rotation.

    Args:
        runs: one table with rotations, or its folder; of a sample of a space it shows what draws at random.
        metric: what a search goes by: f1, auroc or oscr of pseudo-unknown classes.
        columns: of a paper that the figure is as wide as.

    Raises:
        UserError: there is no such table, there are several, or it has no rotations.
    """
    found = tables(runs)
    if len(found) > 1:
        raise UserError(f"plot regret: shows one table, got {len(found)}")
    ((name, table),) = found.items()
    strategies = [one for one in ("random", "evolution", "halving", "nsga") if can_answer(table, one)]
    if not table.header["rotations"]:
        raise UserError(f"plot regret: {name}: strategies need a table with rotations")
    costs = [cost for cost in COSTS if cost <= len(table.rows)]
    if not costs:
        raise UserError(f"plot regret: {name}: it has one architecture, among which nothing is to be searched")
    settings = {"criterion": metric}
    conditions = Conditions(table.check_rule(None), 1)
    figure, axes = one_axes(columns, 0.8 if columns == 1 else 0.5)
    compared = compare_strategies(table, strategies, settings, conditions, costs, SEARCHES)
    for (strategy, rows), look in zip(compared, looks(), strict=False):
        middle, low, high = 100 * np.array([rows[f"{cost:g}"]["regret"] or (np.nan,) * 3 for cost in costs]).T
        axes.fill_between(costs, low, high, color=look.color, alpha=0.15, linewidth=0)
        axes.plot(costs, middle, color=look.color, linestyle=look.linestyle, marker=look.marker, label=strategy)
    axes.set_xscale("log", base=2)
    axes.set(xlabel="whole trainings", ylabel="points below the best", xticks=costs, xticklabels=costs, ylim=(0, None))
    place_legend(figure, axes)
    return figure


def place_legend(figure: Figure, axes: Axes) -> None:
    """Below the axes, in two columns where the names are short enough for a column of a paper."""
    handles, labels = axes.get_legend_handles_labels()
    across = 2 if max(map(len, labels)) <= SHORT else 1
    figure.legend(handles, labels, loc="outside lower center", ncols=across, frameon=False)


def tables(runs: Runs) -> Mapping[str, SearchTable]:
    """Tables by name; a file is called what it is called before `.jsonl.xz`, unless a folder is called that, too.

    Raises UserError.
    """
    paths = by_name(runs)
    short = {name: name.removesuffix(".jsonl.xz") for name in paths}
    names = list(short.values())
    return {short[name] if names.count(short[name]) == 1 else name: read_table(path) for name, path in paths.items()}
