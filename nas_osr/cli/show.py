"""How results are printed: one JSON object for programs, a few lines or a table for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nas_osr.cost import GIB
from nas_osr.files.yaml_text import format_yaml
from nas_osr.plain import plain
from nas_osr.reports.sentences import verdict


def show_json(result: Any) -> None:
    """Print plain values as one line of JSON."""
    print(json.dumps(plain(result, "result"), sort_keys=True, allow_nan=False))


def show_yaml(result: Mapping[str, Any]) -> None:
    """Print plain values as YAML, in their own order."""
    print(format_yaml(plain(result, "result")), end="")


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


def show_verdict(metrics: Mapping[str, Any]) -> None:
    """Print in a sentence what an evaluation, or the mean of several, has found; see `verdict`."""
    print(verdict(metrics))


def show_next(command: str) -> None:
    """Print what one would type next."""
    print(f"next: nas-osr {command}")


def show_dry_run(result: Mapping[str, Any]) -> None:
    """Print a plan as YAML, and its estimate as comments below."""
    show_yaml({name: value for name, value in result.items() if name != "estimate"})
    for text in estimate_lines(result["estimate"]):
        print(f"# {text}")


def estimate_lines(estimate: Mapping[str, Any]) -> list[str]:
    """An estimate (`nas_osr.cost.whole_run.Cost.estimate`) in a few lines."""
    name = estimate["device_name"] or f"{estimate['device']}, {estimate['cpu_threads']} threads"
    memory = {part: f"{amount / GIB:.2f}" for part, amount in estimate["memory_bytes"].items()}
    parts = ", ".join(f"{part} {amount}" for part, amount in memory.items() if part != "total")
    available = estimate["available_bytes"]
    has = "" if available is None else f"; {estimate['device']} has {available / GIB:.2f} GiB free"
    lines = [f"{name}, {estimate['precision']}: {estimate['parameters'] / 1e6:.2f} million parameters"]
    lines += [
        f"{kind}: {step['count']} steps of {step['images']} images, {step['flops'] / 1e9:.4g} GFLOP and about "
        f"{step['seconds']:.2g} s each"
        for kind, step in estimate["steps"].items()
    ]
    lines.append(
        f"in all: {estimate['flops'] / 1e12:.4g} TFLOP, about {duration(estimate['seconds'])}, "
        f"of it scoring {duration(estimate['scoring_seconds'])}"
    )
    lines.append(f"memory: about {memory['total']} GiB ({parts}){has}")
    return lines


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    for size, unit in ((3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} seconds"
