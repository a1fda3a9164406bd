"""`nas-osr evaluate`: every figure of a retrained network, computed anew from its saved model."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas_osr.cli.show import show_evaluation, show_json, show_metrics, show_next, show_verdict
from nas_osr.errors import UserError
from nas_osr.metrics.resampling import mean_and_spread
from nas_osr.retrain.evaluate import run_evaluate
from nas_osr.retrain.retrain_request import EvaluateRequest
from nas_osr.scoring import list_rules, rule_class


def evaluate(config: EvaluateRequest, command: list[str]) -> None:
    """Evaluate as configured and print a table: with intervals for one result, a column each for several.

    Raises:
        UserError: at last, where a rule that was named has been left out; a line has said why.
    """
    results = run_evaluate(config)
    if config.json:
        show_json(results)
    elif len(results) > 1:
        show_metrics(columns_of(config, results))
    else:
        show_evaluation(results[0]["metrics"], results[0]["intervals"])
    if not config.json and len({result["rule"] for result in results}) == 1:
        show_verdict(mean_and_spread([result["metrics"] for result in results]))
        show_next(f"predict {shlex.quote(str(Path(config.run, part_names(config)[0])))} IMAGES")
    evaluated = Counter(result["rule"] for result in results)
    named = [] if config.rule is None else [rule_class(name).name for name in list_rules(config.rule)]
    left_out = [name for name in named if evaluated[name] < len(part_names(config))]
    if left_out:
        raise UserError(f"{config.run}: {', '.join(left_out)} left out, as said above; the other rules are evaluated")


def part_names(config: EvaluateRequest) -> list[str]:
    """The folders of a retraining's splits and seeds, or "" where it is a single run's own."""
    return sorted(part.name for part in Path(config.run).glob("split-*") if part.is_dir()) or [""]


def columns_of(config: EvaluateRequest, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A column of metrics for each of several results: of one rule the parts and their mean, else each rule's mean.

    The heading of a rule that was left out of some parts says of how many the mean is.
    """
    parts, by_rule = part_names(config), dict[str, list[Any]]()
    for result in results:
        by_rule.setdefault(result["rule"], []).append(result["metrics"])
    if len(parts) == 1:
        return {rule: metrics for rule, [metrics] in by_rule.items()}
    if len(by_rule) > 1:
        some = {rule: f" ({len(found)} of {len(parts)})" for rule, found in by_rule.items() if len(found) < len(parts)}
        return {f"{rule}{some.get(rule, '')}": mean_and_spread(metrics) for rule, metrics in by_rule.items()}
    return {
        **{part: result["metrics"] for part, result in zip(parts, results, strict=True)},
        "mean": mean_and_spread([result["metrics"] for result in results]),
    }
