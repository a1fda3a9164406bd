"""Macro-F1 against the number of unknown classes (GMVAE) and against openness (NAS-OSR, fig. 3).

The curve itself is `nas_osr.metrics.resampling.openness_f1_curve`, which every evaluation computes
and leaves in metrics.json.
"""

from __future__ import annotations

from typing import Any

from nas_osr.errors import UserError
from nas_osr.retrain.analysis.common import Curve, check_picture, open_runs, plot_curves
from nas_osr.retrain.analysis.config import UnknownsConfig


def run_unknowns(config: UnknownsConfig) -> dict[str, list[dict[str, Any]]]:
    """The openness-F1 curve of each run by its folder's name, as metrics.json has it; plotted where asked for.

    Raises:
        UserError: no finished retraining, or no such metrics.
    """
    check_picture(config.plot)
    file = f"metrics-{config.label}.json" if config.label else "metrics.json"
    curves: dict[str, list[dict[str, Any]]] = {}
    for name, run in open_runs(config.run).items():
        curve = run.read_json(file).get("openness_f1_curve")
        if not curve:
            raise UserError(f"{run.path / file}: no openness_f1_curve in it: run nas-osr evaluate again")
        curves[name] = curve
    if config.plot is not None:
        lines: dict[str, Curve] = {
            name: (
                [point["unknown_classes"] for point in curve],
                [point["macro_f1"] for point in curve],
                [point["std"] or 0.0 for point in curve],
            )
            for name, curve in curves.items()
        }
        plot_curves(config.plot, lines, "unknown classes Q", "macro-F1")
    return curves
