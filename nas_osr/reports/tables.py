"""Retrainings side by side: one line a method, or methods against protocols, in percent, with the best marked."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from nas_osr.errors import UserError, suggest
from nas_osr.reports.sheets import Sheet
from nas_osr.retrain.comparison import METRICS, Row, orientation_only

#: What metrics are called in print. Open-set and out-of-distribution papers have names of their own for the same.
TITLES = {
    "auroc": "AUROC",
    "oscr": "OSCR",
    "macro_f1": "macro-F1",
    "macro_f1_harmonic": "harmonic F1",
    "closed_set_accuracy": "accuracy",
    "auin": "AUPR-in",
    "auout": "AUPR-out",
    "tnr_at_95_tpr": "TNR95",
    "fpr_at_95_tpr": "FPR95",
    "dtacc": "DTACC",
}
#: Other names that `--metric` takes.
ALIASES = {"fpr95": "fpr_at_95_tpr", "tnr95": "tnr_at_95_tpr", "aupr_in": "auin", "aupr_out": "auout"}
LOWER_IS_BETTER = {"fpr_at_95_tpr"}
OTHER_SPLITS = "* class splits of another family, or of one that is not known: orientation only"
INCOMPLETE = "! splits or seeds are missing"
APART = "mean ± std over splits ± std over seeds"
COMPARED = "bold: the best of a protocol, underlined: the second, orientation aside"
SPREADS = ("std", "std_splits", "std_seeds")


def with_other_names(rows: Sequence[Row]) -> list[Row]:
    """The rows with FPR95 = 1 - TNR95 beside what they have."""
    found = []
    for row in rows:
        figure = row.metrics.get("tnr_at_95_tpr")
        if figure is not None:
            mean = None if figure["mean"] is None else 1.0 - figure["mean"]
            row = replace(row, metrics={**row.metrics, "fpr_at_95_tpr": {**figure, "mean": mean}})
        found.append(row)
    return found


def choose_metrics(names: Sequence[str] | None, rows: Sequence[Row]) -> list[str]:
    """The metrics to show, by the names that results have. Raises UserError on one that no run has."""
    offered = dict.fromkeys(name for row in rows for name in row.metrics)
    chosen = [stored_name(name) for name in names or METRICS]
    for name in chosen if names else ():
        if name not in offered:
            raise UserError(f"compare: --metric {name}: no run has it{suggest(name, offered, instead='there are')}")
    return chosen


def stored_name(metric: str) -> str:
    """The name that results have for a metric."""
    return ALIASES.get(metric.lower().replace("-", "_"), metric)


def sort_rows(rows: Sequence[Row], metric: str) -> list[Row]:
    """The rows of each protocol with the best first; what has no such figure comes last."""
    sign = 1.0 if metric in LOWER_IS_BETTER else -1.0

    def key(row: Row) -> tuple[bool, float]:
        mean = mean_of(row, metric)
        return mean is None, sign * (mean or 0.0)

    protocols = dict.fromkeys(row.protocol for row in rows)
    return [row for name in protocols for row in sorted((r for r in rows if r.protocol == name), key=key)]


def flat_sheet(rows: Sequence[Row], metrics: Sequence[str] = METRICS, *, brief: bool = False) -> Sheet:
    """A line for each method and protocol.

    Args:
        brief: for a paper: protocols as sections, without sizes and folders.
    """
    titles = [TITLES.get(name, name) for name in metrics]
    with_macs = any(row.macs is not None for row in rows)
    headings = ["method", "protocol", "family", "splits x seeds", *titles, "parameters", *["MACs"] * with_macs, "from"]
    if brief:
        headings, rows = ["method", "family", *titles], by_protocol(rows)
    lines: list[list[str]] = []
    sections: dict[int, str] = {}
    for row in rows:
        mark = " *" if orientation_only(row, rows) else " !" if row.incomplete else ""
        figures = [format_percent(row.metrics.get(name)) for name in metrics]
        if brief:
            if row.protocol not in sections.values():
                sections[len(lines)] = row.protocol
            lines.append([row.method + mark, row.family or "-", *figures])
            continue
        sizes = [format_size(row.parameters), *[format_size(row.macs)] * with_macs]
        lines.append(
            [row.method + mark, row.protocol, row.family or "-", row.parts or "-", *figures, *sizes, row.source]
        )
    first = headings.index(titles[0])
    ranks = {
        (line, first + column): rank
        for column, name in enumerate(metrics)
        for line, rank in rank_rows(rows, name).items()
    }
    sections = sections if len(sections) > 1 else {}
    return Sheet(headings, lines, ranks, sections, notes_on(rows, ranked=brief))


def pivot_sheets(rows: Sequence[Row], metrics: Sequence[str], *, ranked: bool = False) -> list[Sheet]:
    """For each metric a table of methods against protocols; published methods say which family of splits they are of.

    Raises:
        UserError: two runs have one name on one protocol.
    """
    protocols = list(dict.fromkeys(row.protocol for row in rows))
    methods = list(dict.fromkeys(method_of(row) for row in rows))
    sheets = []
    for metric in metrics:
        cells: dict[tuple[str, str], str] = {}
        ranks = {}
        for number, row in enumerate(rows):
            key = method_of(row), row.protocol
            mark = " *" if orientation_only(row, rows) else " !" if row.incomplete else ""
            text = format_percent(row.metrics.get(metric))
            if key in cells and "-" not in (text, cells[key]):
                raise UserError(f"compare: two runs are called {key[0]} on {key[1]}: tell them apart with --name")
            if text != "-" or key not in cells:
                cells[key] = text + (mark if text != "-" else "")
            rank = rank_rows(rows, metric).get(number)
            if rank:
                ranks[methods.index(key[0]), 1 + protocols.index(key[1])] = rank
        lines = [[method, *(cells.get((method, protocol), "-") for protocol in protocols)] for method in methods]
        title = TITLES.get(metric, metric)
        sheets.append(Sheet(["method", *protocols], lines, ranks, {}, notes_on(rows, ranked=ranked), title))
    return sheets


def method_of(row: Row) -> str:
    """What a line of a pivot is called: of a published row with its family and paper."""
    return f"{row.method} ({row.source}; {row.family or 'splits not known'})" if row.published else row.method


def by_protocol(rows: Sequence[Row]) -> list[Row]:
    """The rows with those of a protocol together."""
    protocols = dict.fromkeys(row.protocol for row in rows)
    return [row for name in protocols for row in rows if row.protocol == name]


def rank_rows(rows: Sequence[Row], metric: str) -> dict[int, int]:
    """By place: 1 of the best row of its protocol, 2 of the second, as the figures are printed; equal ones share it.

    Published rows of other class splits do not take part, nor a protocol with one row.
    """
    ranks: dict[int, int] = {}
    for protocol in dict.fromkeys(row.protocol for row in rows):
        places = [place for place, row in enumerate(rows) if row.protocol == protocol]
        printed = {
            place: round(100 * mean, 1)
            for place in places
            if (mean := mean_of(rows[place], metric)) is not None and not orientation_only(rows[place], rows)
        }
        best = sorted(set(printed.values()), reverse=metric not in LOWER_IS_BETTER)[:2]
        if len(printed) > 1:
            ranks |= {place: best.index(value) + 1 for place, value in printed.items() if value in best}
    return ranks


def mean_of(row: Row, metric: str) -> float | None:
    """The mean of a metric, in [0, 1]; None where the row has none."""
    figure = row.metrics.get(metric)
    mean: float | None = None if figure is None else figure["mean"]
    return mean


def notes_on(rows: Sequence[Row], *, ranked: bool) -> list[str]:
    """What the marks of a table mean, of those that occur in it."""
    figures = [figure for row in rows for figure in row.metrics.values()]
    notes = [OTHER_SPLITS] if any(orientation_only(row, rows) for row in rows) else []
    notes += [INCOMPLETE] if any(row.incomplete for row in rows) else []
    notes += [APART] if any(None not in (f.get("std_splits"), f.get("std_seeds")) for f in figures) else []
    return notes + ([COMPARED] if ranked else [])


def csv_text(rows: Sequence[Row], metrics: Sequence[str]) -> str:
    """Rows for programs: figures in percent, mean and standard deviations in columns of their own."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [(name, key) for name in metrics for key in ("mean", *SPREADS)]
    figures = [name if key == "mean" else f"{name}_{key}" for name, key in columns]
    head = ["method", "protocol", "family", "published", "parts", *figures, "parameters", "macs", "source"]
    writer.writerow([*head, "orientation_only"])
    for row in rows:
        values = [row.metrics.get(name, {}).get(key) for name, key in columns]
        shown = ["" if value is None else f"{100 * value:.1f}" for value in values]
        about = [row.method, row.protocol, row.family or "", row.published, row.parts]
        writer.writerow([*about, *shown, row.parameters, row.macs, row.source, orientation_only(row, rows)])
    return text.getvalue()


def format_percent(figure: Mapping[str, Any] | None) -> str:
    """ "84.2 ± 1.3" of mean and std in [0, 1], "84.2 ± 1.1 ± 0.4" over splits and seeds; "-" where there is none."""
    if figure is None or figure["mean"] is None:
        return "-"
    apart = [figure.get("std_splits"), figure.get("std_seeds")]
    spreads = apart if None not in apart else [figure["std"]]
    return f"{100 * figure['mean']:.1f}" + "".join(f" ± {100 * std:.1f}" for std in spreads if std is not None)


def format_size(count: int | None) -> str:
    """A number of parameters or operations, such as "0.64M"."""
    if count is None:
        return "-"
    return f"{count / 1e9:.2f}G" if count >= 1e9 else f"{count / 1e6:.2f}M"
