"""How results are printed: one JSON object for programs, a few lines or a table for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from nas_osr.files.storage import plain


def show_json(result: Any) -> None:
    """Print plain values as one line of JSON."""
    print(json.dumps(plain(result, "result"), sort_keys=True, allow_nan=False))


def show_yaml(result: Mapping[str, Any]) -> None:
    """Print plain values as YAML, in their own order."""
    print(yaml.safe_dump(plain(result, "result"), sort_keys=False, allow_unicode=True), end="")


def show_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows in columns as wide as their widest cell; the first row is the heading."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def show_metrics(columns: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a table of metrics: one column for each of several results, one row for each metric.

    Args:
        columns: heading -> {metric: number, None, or {"mean", "std", "n"}}.
    """
    names: Iterable[str] = dict.fromkeys(name for metrics in columns.values() for name in metrics)
    rows = [["metric", *columns]]
    rows += [[name, *(format_metric(metrics.get(name)) for metrics in columns.values())] for name in names]
    show_table(rows)


def show_evaluation(metrics: Mapping[str, Any], intervals: Mapping[str, tuple[float, float] | None]) -> None:
    """Print the metrics of one evaluation, with their intervals where there are any."""
    columns = {"value": metrics}
    defined = {name: pair for name, pair in intervals.items() if pair is not None}
    if defined:
        columns["from (95 %)"] = {name: pair[0] for name, pair in defined.items()}
        columns["to (95 %)"] = {name: pair[1] for name, pair in defined.items()}
    show_metrics(columns)


def format_metric(value: Any) -> str:
    """A number with four digits, "mean ± std" of several, "-" for an undefined one."""
    if isinstance(value, Mapping):
        spread = "" if value["std"] is None else f" ± {value['std']:.4f}"
        return format_metric(value["mean"]) + spread
    return "-" if value is None else f"{value:.4f}"
