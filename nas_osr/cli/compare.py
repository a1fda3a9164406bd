"""`nas-osr compare`: retrained runs side by side, and beside what is published."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from nas_osr.cli.show import show_json, show_table
from nas_osr.configuration import suggest
from nas_osr.errors import UserError
from nas_osr.retrain.comparison import METRICS, Row, find_rows, orientation_only, with_published

HEADINGS = {
    "auroc": "AUROC",
    "oscr": "OSCR",
    "macro_f1": "macro-F1",
    "macro_f1_harmonic": "harmonic F1",
    "closed_set_accuracy": "accuracy",
}
NOTE = "* class splits of another family, or of one that is not known: orientation only"
INCOMPLETE = "! splits or seeds are missing"


def compare(
    runs: list[str],
    metric: list[str] | None = None,
    format: Literal["table", "csv", "markdown"] = "table",
    published: bool = True,
    json: bool = False,
) -> None:
    """Show retrained runs in one table, percent, mean ± std over splits and seeds, beside the published figures.

    Args:
        runs: folders of retrainings, or folders that hold several.
        metric: metrics to show, such as auroc or tnr_at_95_tpr; five of them when not given.
        format: of the table.
        published: show the published figures of the same protocols; --no_published leaves them out.
        json: print one JSON object, with every metric, as shares in [0, 1].
    """
    rows = find_rows(runs)
    metrics = check_metrics(metric, rows)
    if published:
        rows = with_published(rows, metrics)
    if json:
        show_json({"rows": [{**asdict(row), "orientation_only": orientation_only(row, rows)} for row in rows]})
    elif format == "csv":
        show_csv(rows, metrics)
    else:
        show_rows(rows, metrics, markdown=format == "markdown")


def check_metrics(names: Sequence[str] | None, rows: Sequence[Row]) -> list[str]:
    """The metrics to show. Raises UserError on one that no run has."""
    offered = dict.fromkeys(name for row in rows for name in row.metrics)
    for name in names or ():
        if name not in offered:
            raise UserError(f"compare: --metric {name}: no run has it{suggest(name, offered, instead='there are')}")
    return list(names or METRICS)


def show_rows(rows: Sequence[Row], metrics: Sequence[str] = METRICS, markdown: bool = False) -> None:
    """Print rows as a table for people, with notes under it."""
    with_macs = any(row.macs is not None for row in rows)
    headings = ["method", "protocol", "family", "splits x seeds", *(HEADINGS.get(name, name) for name in metrics)]
    table = [[*headings, "parameters", *(["MACs"] if with_macs else []), "from"]]
    for row in rows:
        mark = " *" if orientation_only(row, rows) else " !" if row.incomplete else ""
        figures = [format_percent(row.metrics.get(name)) for name in metrics]
        sizes = [format_size(row.parameters), *([format_size(row.macs)] if with_macs else [])]
        table.append(
            [row.method + mark, row.protocol, row.family or "-", row.parts or "-", *figures, *sizes, row.source]
        )
    if markdown:
        table.insert(1, ["---"] * len(table[0]))
        for line in table:
            print(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |")
    else:
        show_table(table)
    notes = [NOTE] if any(orientation_only(row, rows) for row in rows) else []
    notes += [INCOMPLETE] if any(row.incomplete for row in rows) else []
    if notes:
        print("\n" + "\n".join(note.replace("*", r"\*", 1) if markdown else note for note in notes))


def show_csv(rows: Sequence[Row], metrics: Sequence[str]) -> None:
    """Print rows for programs: figures in percent, mean and standard deviation in columns of their own."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    figures = [column for name in metrics for column in (name, f"{name}_std")]
    head = ["method", "protocol", "family", "published", "parts", *figures, "parameters", "macs", "source"]
    writer.writerow([*head, "orientation_only"])
    for row in rows:
        values = []
        for name in metrics:
            figure = row.metrics.get(name, {"mean": None, "std": None})
            values += ["" if figure[key] is None else f"{100 * figure[key]:.1f}" for key in ("mean", "std")]
        about = [row.method, row.protocol, row.family or "", row.published, row.parts]
        writer.writerow([*about, *values, row.parameters, row.macs, row.source, orientation_only(row, rows)])


def format_percent(figure: Mapping[str, Any] | None) -> str:
    """ "84.2 ± 1.3" of mean and std in [0, 1]; "-" where there is none."""
    if figure is None or figure["mean"] is None:
        return "-"
    spread = "" if figure["std"] is None else f" ± {100 * figure['std']:.1f}"
    return f"{100 * figure['mean']:.1f}{spread}"


def format_size(count: int | None) -> str:
    """A number of parameters or operations, such as "0.64M"."""
    if count is None:
        return "-"
    return f"{count / 1e9:.2f}G" if count >= 1e9 else f"{count / 1e6:.2f}M"
