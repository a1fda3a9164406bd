"""Macro-F1 against the number of unknown classes (GMVAE) and against openness (NAS-OSR, fig. 3).

The curve itself is `nas_osr.metrics.resampling.openness_f1_curve`, which every evaluation computes
and leaves in metrics.json.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from nas_osr.configuration import UserPath
from nas_osr.errors import UserError
from nas_osr.retrain.analysis.base import Analysis, Curve, Table, by_method, check_picture, plot_curves
from nas_osr.runs.run_folder import RunFolder

Points = list[dict[str, Any]]


@dataclass
class Unknowns(Analysis):
    """Show macro-F1 against the number of unknown classes and openness (GMVAE; NAS-OSR, fig. 3)."""

    name: ClassVar[str] = "unknowns"

    label: str = ""
    "read metrics-LABEL.json, which `evaluate` left under another rule or unknown source."
    plot: UserPath | None = None
    "file for the curve: .png, .svg or .pdf."

    def check(self) -> None:
        check_picture(self.plot)

    def figures(self, run: RunFolder) -> Points:
        """The curve as metrics.json has it, a record for each number of unknown classes. Raises UserError."""
        file = f"metrics-{self.label}.json" if self.label else "metrics.json"
        curve: Points | None = run.read_json(file).get("openness_f1_curve")
        if not curve:
            raise UserError(f"{run.path / file}: no openness_f1_curve in it: run nas-osr evaluate again")
        return curve

    def keep(self, run: RunFolder, figures: Points) -> None:
        """Nothing: metrics.json has the curve."""

    def draw(self, results: Mapping[str, Points]) -> None:
        """The curve of each run, with the spread over subsets of classes."""
        curves: dict[str, Curve] = {}
        for name, curve in results.items():
            counts, means = [point["unknown_classes"] for point in curve], [point["macro_f1"] for point in curve]
            curves[name] = (counts, means, [point["std"] or 0.0 for point in curve])
        plot_curves(self.plot, curves, "unknown classes Q", "macro-F1")

    def tables(self, results: Mapping[str, Points]) -> Iterator[Table]:
        """For every number of unknown classes mean and spread over their subsets, a column for each run.

        Of several methods a column for each, with mean and spread over its runs where it has several.
        """
        from nas_osr.metrics.resampling import mean_and_spread

        def over_runs(points: list[dict[str, Any]]) -> Any:
            return mean_and_spread([{"f1": point["macro_f1"]} for point in points])["f1"]

        methods = by_method(results)
        columns = methods if len(methods) > 1 else {name: [curve] for name, curve in results.items()}
        mean = len(methods) == 1 and len(results) > 1
        heading = ["unknown classes", "openness (cac)", "openness (gradmix)", "subsets"]
        heading += [f"F1 {name}" for name in columns]
        rows: list[list[Any]] = [heading + (["F1 mean over runs"] if mean else [])]
        longest: Points = max(results.values(), key=lambda curve: len(curve))
        for count, point in enumerate(longest):
            row = [str(count), point["openness_cac"], point["openness_gradmix"], str(point["subsets"])]
            for curves in columns.values():
                there = [curve[count] for curve in curves if count < len(curve)]
                alone = {"mean": there[0]["macro_f1"], "std": there[0]["std"]} if there else None
                row.append(over_runs(there) if len(there) > 1 else alone)
            if mean:
                row.append(over_runs([curve[count] for curve in results.values() if count < len(curve)]))
            rows.append(row)
        yield Table(rows)
