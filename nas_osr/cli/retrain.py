"""`nas-osr retrain`: train an architecture from scratch on a protocol, and evaluate it."""

from __future__ import annotations

import shlex

from nas_osr.cli.show import show_dry_run, show_json, show_metrics, show_next, show_verdict
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.retrain.run import run_retrain


def retrain(config: RetrainRequest, command: list[str]) -> None:
    """Retrain as configured and print a table: a column for each split and seed, and mean ± std over several."""
    result = run_retrain(config, command)
    if config.json:
        show_json(result)
    elif config.dry_run:
        show_dry_run(result)
    else:
        parts = result["parts"]
        show_metrics({**parts, "mean ± std": result["metrics"]} if len(parts) > 1 else parts)
        if config.pseudo_unknown is not None:
            names = ", ".join(map(str, config.pseudo_unknown))
            print(f"a rehearsal: {names} played the unknown, training images the test")
        show_verdict(result["metrics"])
        print(f"everything in {result['out']}")
        show_next(f"evaluate {shlex.quote(result['out'])} --rule all")
