"""`nas-osr compare`: retrained runs side by side, and beside what is published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Literal, get_args

from nas_osr.cli.show import show_json, show_table
from nas_osr.errors import UserError
from nas_osr.reports.sheets import SheetFormat, write_sheet
from nas_osr.reports.tables import choose_metrics, csv_text, flat_sheet, pivot_sheets, sort_rows, with_other_names
from nas_osr.retrain.comparison import METRICS, Row, find_rows, orientation_only, with_published

OVER_PAIRS = ["over pairs from", "to"]


def compare(
    runs: list[str],
    metric: list[str] | None = None,
    format: Literal["table", "csv", "markdown", "latex"] = "table",
    name: list[str] | None = None,
    sort: str | None = None,
    pivot: bool = False,
    paired: bool = False,
    published: bool = True,
    json: bool = False,
) -> None:
    """Show retrained runs in one table, percent, mean ± std over splits and seeds, beside the published figures.

    Where a run has several splits and several seeds, the two spreads stand apart: mean ± splits ± seeds.

    Args:
        runs: folders of retrainings, folders that hold several, or patterns in quotes such as "runs/plain-*".
        metric: metrics to show, such as auroc, oscr or fpr95; five of them when not given.
        format: of the table; latex is for the package booktabs, with the best figure bold and the second underlined.
        name: what the methods are called, a name for each of the above; retrainings of one name are one method, whose
            splits and seeds are put together. Objective, rule and network when not given.
        sort: a metric: the best row of each protocol comes first.
        pivot: a table for each metric, with methods as rows and protocols as columns.
        paired: compare two runs, or patterns, on the same splits and seeds, image by image: difference and its 95 %
            intervals.
        published: show the published figures of the same protocols; --no_published leaves them out.
        json: print one JSON object, with every metric, as shares in [0, 1].
    """
    if paired:
        if metric or sort or pivot or format != "table":
            raise UserError("compare: --paired has a table of its own: leave --metric, --sort, --pivot, --format out")
        compare_paired(runs, name, json)
        return
    rows = with_other_names(find_rows(runs, name))
    metrics = choose_metrics(metric, rows)
    if published:
        rows = with_other_names(with_published(rows, metrics))
    if sort:
        rows = sort_rows(rows, choose_metrics([sort], rows)[0])
    if json:
        show_json({"rows": [{**asdict(row), "orientation_only": orientation_only(row, rows)} for row in rows]})
    elif format == "csv" and pivot:
        raise UserError("compare: --pivot has no csv: a row of the csv names method and protocol; leave --pivot out")
    elif format == "csv":
        print(csv_text(rows, metrics), end="")
    elif pivot:
        sheets = pivot_sheets(rows, metrics, ranked=format == "latex")
        print("\n\n".join(write_sheet(sheet, format) for sheet in sheets))
    else:
        show_rows(rows, metrics, format)


def show_rows(rows: Sequence[Row], metrics: Sequence[str] = METRICS, form: SheetFormat = "table") -> None:
    """Print rows as a table for people, with notes under it."""
    assert form in get_args(SheetFormat)
    print(write_sheet(flat_sheet(rows, metrics, brief=form == "latex"), form))


def compare_paired(runs: Sequence[str], names: Sequence[str] | None, as_json: bool) -> None:
    """Print how two runs differ on the same test images. Raises UserError."""
    from nas_osr.metrics.resampling import SOME_PAIRS
    from nas_osr.retrain.paired import compare_pair

    if len(runs) != 2 or (names and len(names) != 2):
        raise UserError(f"compare: --paired is for two runs, and {len(runs)} are named")
    found = compare_pair(runs[0], runs[1])
    if as_json:
        show_json(found)
        return
    first, second = names or runs
    pairs = f"{found['pairs']} pair{'s' * (found['pairs'] > 1)}"
    print(f"{first} minus {second}, {pairs} of the same split and seed; percent")
    over = found["pairs"] >= SOME_PAIRS
    rows = [["metric", first, second, "difference", "from (95 %)", "to (95 %)", *OVER_PAIRS * over, "Wilcoxon p"]]
    for metric, figures in found["metrics"].items():
        values = ["-" if figures[key] is None else f"{100 * figures[key]:.2f}" for key in ("first", "second")]
        changes = [figures["difference"], *(figures["interval"] or (None, None))]
        changes += (figures["over_pairs"] or (None, None)) if over else ()
        values += ["-" if change is None else f"{100 * change:+.2f}" for change in changes]
        p_value = figures["wilcoxon_p"]
        rows.append([metric, *values, "-" if p_value is None else f"{p_value:.3g}"])
    show_table(rows)
    for note in found["notes"]:
        print(note)
