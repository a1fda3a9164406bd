"""The criterion of a search: how well a network tells kept classes and pseudo-unknown images apart."""

from __future__ import annotations

from functools import partial
from typing import Any

from nas_osr.evaluation.judging import collect_outputs
from nas_osr.metrics.open_set import auroc, macro_f1
from nas_osr.scoring.base import ScoringRule
from nas_osr.strategies.pseudo_unknown import SearchData


def pseudo_open_set_scores(learner: Any, rule: ScoringRule, split: SearchData) -> dict[str, float | None]:
    """How well a network in eval mode tells kept classes and pseudo-unknown images apart.

    The rule learns from kept training images and its threshold from kept validation images only.

    Args:
        learner: a `nas_osr.training.learner.Learner` as Fabric wrapped it.
        rule: not fitted.
        split: on the learner's device.

    Returns:
        f1: macro-F1 over the kept classes and "unknown" (over the kept ones alone when nothing plays the unknown).
        auroc: of pseudo-unknown against kept images, None without any.
        threshold: the rule's.
    """
    infer = partial(collect_outputs, learner.infer, device=split.validation.labels.device)
    if rule.learns:
        rule.fit(infer(split.fit_sample), split.fit_sample.labels.cpu(), learner.objective)
    scored, known = split.scored(), len(split.validation)
    outputs = infer(scored)
    rule.set_threshold(outputs[:known], split.validation.labels.cpu())
    scores = rule.scores(outputs)
    truth, unknown = scored.labels.cpu().numpy(), learner.objective.num_classes
    return {
        "f1": macro_f1(truth, rule.decide(scores).numpy(), unknown),
        "auroc": auroc(scores.knownness.numpy(), truth == unknown),
        "threshold": rule.threshold,
    }
