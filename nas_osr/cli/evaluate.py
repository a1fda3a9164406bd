"""`nas-osr evaluate`: every figure of a retrained network, computed anew from its saved model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nas_osr.cli.show import show_json, show_metrics


def evaluate(
    run: str,
    unknown: str | None = None,
    rule: str | None = None,
    rule_config: dict[str, Any] | None = None,
    data_dir: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    threads: int = 0,
    bootstrap: int = 1000,
    json: bool = False,
) -> None:
    """Evaluate a retrained network again from its saved model: rule, threshold and every figure are computed anew.

    Results under another unknown source or rule are written beside the run's own, as metrics-LABEL.json.

    Args:
        run: folder of one retraining, or of several (`split-0` ...).
        unknown: a source whose test images all play the unknown, instead of the protocol's.
        rule: another scoring rule than the run's.
        rule_config: settings of the rule.
        data_dir: folder of the images, where it is not the run's.
        device: auto, cpu, cuda or cuda:INDEX.
        precision: auto, 32-true or bf16-mixed.
        threads: CPU threads; 0 leaves torch's choice.
        bootstrap: resamples for the confidence intervals of the metrics; 0 leaves them out.
        json: print the result as one JSON object.
    """
    from retrain.evaluate import run_evaluate

    results = run_evaluate(run, unknown, rule, rule_config, data_dir, device, precision, threads, bootstrap)
    if json:
        show_json(results)
        return
    if len(results) > 1:
        folders = sorted(part.name for part in Path(run).glob("split-*") if part.is_dir())
        show_metrics({name: result["metrics"] for name, result in zip(folders, results, strict=True)})
        return
    [result] = results
    intervals = {name: pair for name, pair in result["intervals"].items() if pair is not None}
    columns = {"value": result["metrics"]}
    if intervals:
        columns["from (95 %)"] = {name: pair[0] for name, pair in intervals.items()}
        columns["to (95 %)"] = {name: pair[1] for name, pair in intervals.items()}
    show_metrics(columns)
