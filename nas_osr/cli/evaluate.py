"""`nas-osr evaluate`: every figure of a retrained network, computed anew from its saved model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nas_osr.cli.show import show_evaluation, show_json, show_metrics

if TYPE_CHECKING:
    from retrain.config import EvaluateConfig


def evaluate(config: EvaluateConfig, command: list[str]) -> None:
    """Evaluate as configured and print a table: with intervals for one run, a column each for several."""
    from retrain.evaluate import run_evaluate

    results = run_evaluate(config)
    if config.json:
        show_json(results)
        return
    if len(results) > 1:
        folders = sorted(part.name for part in Path(config.run).glob("split-*") if part.is_dir())
        show_metrics({name: result["metrics"] for name, result in zip(folders, results, strict=True)})
        return
    [result] = results
    show_evaluation(result["metrics"], result["intervals"])
