"""Macro-F1 against the number of unknown classes (GMVAE) and against openness (NAS-OSR, fig. 3).

The curve itself is `nas_osr.metrics.resampling.openness_f1_curve`, which every evaluation computes
and leaves in metrics.json.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from nas_osr.configuration import UserPath
from nas_osr.errors import UserError
from nas_osr.retrain.analysis.base import Analysis, Curve, Curves, Table, by_method, check_picture
from nas_osr.runs.run_folder import RunFolder

Points = list[dict[str, Any]]
ALL = "all"  # in place of a label


@dataclass
class Unknowns(Analysis):
    """Show macro-F1 against the number of unknown classes and openness (GMVAE; NAS-OSR, fig. 3)."""

    name: ClassVar[str] = "unknowns"

    label: str = ""
    """read metrics-LABEL.json, which `evaluate` left under another rule or unknown source; all is every rule that a run
    was judged by."""
    plot: UserPath | None = None
    "file for the curve: .png, .svg or .pdf."

    def check(self) -> None:
        check_picture(self.plot)

    def figures(self, run: RunFolder) -> Points | dict[str, Points]:
        """The curve as metrics.json has it, a record for each number of unknown classes; of `all` one for each rule.

        Raises UserError.
        """
        if self.label != ALL:
            return read_curve(run, f"metrics-{self.label}.json" if self.label else "metrics.json")
        others = [path.stem.removeprefix("metrics-") for path in sorted(run.path.glob("metrics-*.json"))]
        curves = {str(run.read_json("metrics.json").get("rule")): read_curve(run, "metrics.json")}
        return curves | {label: read_curve(run, f"metrics-{label}.json") for label in others}

    def keep(self, run: RunFolder, figures: Any) -> None:
        """Nothing: metrics.json has the curve."""

    def curves(self, results: Mapping[str, Any]) -> Curves:
        """The curve of each run, with the spread over subsets of classes."""
        lines: dict[str, Curve] = {}
        for name, curve in by_rule(results).items():
            counts, means = [point["unknown_classes"] for point in curve], [point["macro_f1"] for point in curve]
            lines[name] = (counts, means, [point["std"] or 0.0 for point in curve])
        return Curves(lines, "unknown classes Q", "macro-F1")

    def tables(self, results: Mapping[str, Any]) -> Iterator[Table]:
        """For every number of unknown classes mean and spread over their subsets, a column for each run.

        Of several methods a column for each, with mean and spread over its runs where it has several. Runs on other
        numbers of classes have a table of their own.
        """
        tables: dict[Any, dict[str, Points]] = {}
        for name, curve in by_rule(results).items():
            tables.setdefault(tuple(map(first_cells, curve)), {})[name] = curve
        for rows, curves in tables.items():
            yield Table(curves_table(rows, curves))


def read_curve(run: RunFolder, file: str) -> Points:
    """The curve that a metrics file holds. Raises UserError."""
    curve: Points | None = run.read_json(file).get("openness_f1_curve")
    if not curve:
        raise UserError(f"{run.path / file}: no openness_f1_curve in it: run nas-osr evaluate again")
    return curve


def by_rule(results: Mapping[str, Any]) -> dict[str, Points]:
    """Curves by the name of their run; where a run has one for each rule METHOD RULE, or METHOD RULE/split-0."""
    curves: dict[str, Points] = {}
    for name, found in results.items():
        method, slash, part = ("", "/", name) if name.startswith("split-") else name.partition("/")
        of_rules = found.items() if isinstance(found, dict) else ()
        curves |= {f"{method} {rule}".strip() + slash + part: curve for rule, curve in of_rules}
        if isinstance(found, list):
            curves[name] = found
    return curves


def first_cells(point: Mapping[str, Any]) -> tuple[Any, ...]:
    """The columns of a point that are the same for every method."""
    return str(point["unknown_classes"]), point["openness_cac"], point["openness_gradmix"], str(point["subsets"])


def curves_table(firsts: Sequence[tuple[Any, ...]], results: Mapping[str, Points]) -> list[list[Any]]:
    """A row for each number of unknown classes, a column for each method, or for each run of one."""
    from nas_osr.metrics.resampling import mean_and_spread

    def over_runs(points: list[dict[str, Any]]) -> Any:
        return mean_and_spread([{"f1": point["macro_f1"]} for point in points])["f1"]

    methods = by_method(results)
    columns = methods if len(methods) > 1 else {name: [curve] for name, curve in results.items()}
    mean = len(methods) == 1 and len(results) > 1
    heading = [
        "unknown classes",
        "openness (cac)",
        "openness (gradmix)",
        "subsets",
        *(f"F1 {name}" for name in columns),
    ]
    rows: list[list[Any]] = [heading + (["F1 mean over runs"] if mean else [])]
    for count, first in enumerate(firsts):
        row = list(first)
        for curves in columns.values():
            there = [curve[count] for curve in curves]
            row.append(over_runs(there) if len(there) > 1 else {"mean": there[0]["macro_f1"], "std": there[0]["std"]})
        if mean:
            row.append(over_runs([curve[count] for curve in results.values()]))
        rows.append(row)
    return rows
