"""One number a run, side by side: bars, a setting's influence, and what accuracy costs in size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from nas_osr.errors import UserError, suggest
from nas_osr.metrics.fronts import pareto_front
from nas_osr.metrics.resampling import mean_and_spread
from nas_osr.reports.shown_runs import Runs, ShownRun, retrainings
from nas_osr.reports.style import FAINT, INK, Look, looks, one_axes, styled
from nas_osr.reports.tables import LOWER_IS_BETTER, TITLES, stored_name
from nas_osr.retrain.evaluated import name_protocol

#: What the Pareto front may weigh a metric against, and how the axis is called.
SIZES = {"parameters": "million parameters", "macs": "million multiply-accumulates an image"}


@dataclass(frozen=True)
class Summary:
    """One retraining in one number."""

    run: ShownRun
    protocol: str
    mean: float
    std: float | None
    result: Mapping[str, Any]
    "what metrics.json holds of its first split and seed."


@styled
def plot_bars(runs: Runs, *, metric: str = "auroc", label: str = "", columns: int = 1) -> Figure:
    """A metric of each method as bars, with its standard deviation over splits and seeds (CAC, fig. 3).

    One protocol: a bar for each method, the figure beside it. Several: a group for each protocol.

    Args:
        runs: retrainings, such as the folder of a sweep.
        metric: one of metrics.json, or fpr95.
        label: see `ShownRun.predictions`.
        columns: of a paper that the figure is as wide as.

    Raises:
        UserError: a folder holds no evaluated retraining, or it has no such metric.
    """
    found = summarise_runs(runs, metric, label)
    protocols = list(dict.fromkeys(item.protocol for item in found))
    if len(protocols) == 1:
        return draw_rows_of_bars(found, metric, columns)
    methods = list(dict.fromkeys(method_name(item) for item in found))
    figure, axes = one_axes(columns, 0.75 if columns == 1 else 0.42)
    width = 0.8 / len(methods)
    for number, (method, look) in enumerate(zip(methods, looks(), strict=False)):
        own = [item for item in found if method_name(item) == method]
        x = [protocols.index(item.protocol) + (number - (len(methods) - 1) / 2) * width for item in own]
        heights, spreads = [100 * item.mean for item in own], [100 * (item.std or 0.0) for item in own]
        hatch = ("", "////", "....", "xxxx", "\\\\\\\\", "----", "++++")[number % 7]
        style: dict[str, Any] = {"facecolor": (look.color, 0.45 if hatch else 0.85), "edgecolor": look.color}
        axes.bar(x, heights, width * 0.9, label=method, hatch=hatch, linewidth=0.6, **style)
        axes.errorbar(x, heights, spreads, fmt="none", ecolor=INK, elinewidth=0.8, capsize=2)
    axes.set_xticks(range(len(protocols)), protocols)
    low, high = lower_end(found)
    cut = f", from {low:.0f} on" if low else ""
    axes.set(ylabel=f"{TITLES.get(stored_name(metric), metric)} (%){cut}", ylim=(low, high))
    axes.grid(visible=False, axis="x")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def draw_rows_of_bars(found: Sequence[Summary], metric: str, columns: int) -> Figure:
    """Bars of one protocol, lying, the first on top."""
    figure, axes = one_axes(columns, (0.25 + 0.085 * len(found)) / columns)
    means, spreads = (
        [100 * (value or 0.0) for value in column] for column in zip(*((i.mean, i.std) for i in found), strict=True)
    )
    places = range(len(found))
    look = next(looks())
    axes.barh(places, means, 0.62, color=look.color, alpha=0.85)
    axes.errorbar(means, places, xerr=spreads, fmt="none", ecolor=INK, elinewidth=0.9, capsize=2)
    low, high = lower_end(found)
    for place, item in enumerate(found):
        text = f"{100 * item.mean:.1f}" + ("" if item.std is None else f" ± {100 * item.std:.1f}")
        axes.text(high, place, text, va="center", ha="left", fontsize=7)
    axes.set_yticks(places, [item.run.name for item in found])
    cut = f", from {low:.0f} on" if low else ""
    axes.set(xlabel=f"{TITLES.get(stored_name(metric), metric)} (%){cut}", xlim=(low, high))
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    return figure


def lower_end(found: Sequence[Summary]) -> tuple[float, float]:
    """Percent from where bars are drawn, and to where: 0 unless all are close together near the top."""
    ends = [100 * (item.mean + sign * (item.std or 0.0)) for item in found for sign in (-1, 1)]
    low = 10 * np.floor(min(ends) / 10) if min(ends) > 50 else 0.0
    return float(low), float(min(100.0, max(ends) + 1.0) if max(ends) < 99 else max(100.0, max(ends)))


def method_name(item: Summary) -> str:
    """The name of a run without that of its protocol, as sweeps put it there: "cac-cifar10" on cifar10 is "cac"."""
    kept = [part for part in item.run.name.split("-") if part != item.result["protocol"]["name"]]
    return "-".join(kept) or item.run.name


@styled
def plot_sensitivity(
    runs: Runs, *, setting: str | None = None, metric: str = "auroc", label: str = "", columns: int = 1
) -> Figure:
    """A metric against a number that was set differently in each run (CAC, fig. 2), a line for each protocol.

    Args:
        runs: retrainings, such as the folder of a sweep.
        setting: the option, such as objective_config.anchor_weight; the only one that differs when not given.
        metric, label, columns: as for `plot_bars`.

    Raises:
        UserError: no number differs between the runs, or several do and none is named.
    """
    found = summarise_runs(runs, metric, label)
    numbers = [flat_numbers(item.run.parts[0].read_config()) for item in found]
    differing = differing_numbers([item.run for item in found])
    if setting is None and len(differing) != 1:
        said = f"several do: {', '.join(differing)}; name one with --setting" if differing else "none differs"
        raise UserError(f"plot sensitivity: one setting must differ between the runs, and {said}")
    setting = setting or differing[0]
    if setting not in differing:
        hint = suggest(setting, differing, instead="these do:")
        raise UserError(f"plot sensitivity: --setting {setting} is no number that differs between the runs{hint}")
    figure, axes = one_axes(columns, 0.75 if columns == 1 else 0.5)
    values = [own[setting] for own in numbers]
    # what is on the axis does not make protocols of its own
    on_axis = setting == "limit_per_class"
    protocols = [str(item.result["protocol"]["name"]) if on_axis else item.protocol for item in found]
    for protocol, look in zip(dict.fromkeys(protocols), looks(), strict=False):
        pairs = sorted(
            (value, 100 * item.mean, 100 * (item.std or 0.0))
            for value, item, own in zip(values, found, protocols, strict=True)
            if own == protocol
        )
        x, y, spread = (np.array(column) for column in zip(*pairs, strict=True))
        line = {"color": look.color, "linestyle": look.linestyle, "marker": look.marker}
        axes.errorbar(x, y, spread, label=protocol, elinewidth=0.8, capsize=2, **line)
    if min(values) > 0 and max(values) > 20 * min(values):
        axes.set_xscale("log")
    axes.set(xlabel=setting, ylabel=f"{TITLES.get(stored_name(metric), metric)} (%)")
    if len(set(protocols)) > 1:
        axes.legend(loc="best")
    return figure


def differing_numbers(runs: Sequence[ShownRun]) -> list[str]:
    """The settings with a number that is not the same in all runs, splits and seeds aside."""
    numbers = [flat_numbers(run.parts[0].read_config()) for run in runs]
    shared = set.intersection(*map(set, numbers)) - {"splits", "seeds"}
    return sorted(name for name in shared if len({own[name] for own in numbers}) > 1)


def flat_numbers(config: Mapping[str, Any], head: str = "") -> dict[str, float]:
    """The numbers of a configuration by dotted name; architectures are none."""
    found: dict[str, float] = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and name != "architecture":
            found |= flat_numbers(value, f"{head}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{head}{name}"] = float(value)
    return found


@styled
def plot_pareto(
    runs: Runs, *, metric: str = "auroc", against: str = "parameters", label: str = "", columns: int = 1
) -> Figure:
    """A metric against the size of the network, with the front of those that no other beats in both.

    Args:
        runs: retrainings of one protocol.
        against: parameters or macs.
        metric, label, columns: as for `plot_bars`.

    Raises:
        UserError: the runs are of several protocols, or do not tell their size.
    """
    if against not in SIZES:
        raise UserError(f"plot pareto: --against must be one of {', '.join(SIZES)}, got {against}")
    found = summarise_runs(runs, metric, label)
    if len({item.protocol for item in found}) > 1:
        names = ", ".join(dict.fromkeys(item.protocol for item in found))
        raise UserError(f"plot pareto: the runs are of several protocols, {names}: name those of one")
    sizes = [item.result.get(against) for item in found]
    if None in sizes:
        raise UserError(
            f"{found[sizes.index(None)].run.parts[0].path}: its metrics tell no {against}; evaluate it again"
        )
    x, y = np.array(sizes, dtype=np.float64) / 1e6, np.array([100 * item.mean for item in found])
    figure, axes = one_axes(columns, 0.8 if columns == 1 else 0.5)
    sign = -1.0 if stored_name(metric) in LOWER_IS_BETTER else 1.0
    front = pareto_front(x, sign * y)
    axes.step(x[front], y[front], where="post", color=FAINT, linewidth=1.2, zorder=1)
    for place, (item, look) in enumerate(zip(found, named_looks(found), strict=True)):
        axes.errorbar(x[place], y[place], 100 * (item.std or 0.0), color=look.color, elinewidth=0.7, capsize=2)
        face = look.color if place in front else "white"
        style: dict[str, Any] = {"markerfacecolor": face, "markeredgecolor": look.color, "markersize": 5.5}
        axes.plot(x[place], y[place], look.marker, label=item.run.name, linestyle="", **style)
    axes.set(xlabel=SIZES[against], ylabel=f"{TITLES.get(stored_name(metric), metric)} (%)")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def named_looks(found: Sequence[Summary]) -> list[Look]:
    """A look for each run."""
    return [look for _, look in zip(found, looks(), strict=False)]


def summarise_runs(runs: Runs, metric: str, label: str) -> list[Summary]:
    """Mean and standard deviation of a metric over the splits and seeds of each run. Raises UserError."""
    name, found = stored_name(metric), []
    stored = "tnr_at_95_tpr" if name == "fpr_at_95_tpr" else name
    for run in retrainings(runs):
        results = run.results(label)
        figures = mean_and_spread([result["metrics"] for result in results])
        if stored not in figures:
            raise UserError(f"plot: {metric}: no such metric{suggest(metric, figures, instead='there are')}")
        figure, first = figures[stored], run.parts[0]
        if figure["mean"] is None:
            raise UserError(f"{first.path}: {metric} is not defined there")
        mean = 1.0 - figure["mean"] if stored != name else figure["mean"]
        usual = first.read_json("metrics.json") if (first.path / "metrics.json").is_file() else results[0]
        protocol = name_protocol(results[0], usual["protocol"], first.read_config())
        found.append(Summary(run, protocol, mean, figure["std"], results[0]))
    return found
