"""Scoring rules by name: which class makes them, and which objective can feed them. Importing this imports no torch."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nas_osr.errors import UserError, suggest
from nas_osr.plugins import load_class

if TYPE_CHECKING:
    from nas_osr.objectives.base import Objective
    from nas_osr.scoring.base import ScoringRule

RULES: Mapping[str, str] = {
    "cap": "nas_osr.scoring.cap:CAP",
    "cac": "nas_osr.scoring.cac:CAC",
    "msp": "nas_osr.scoring.logits:MSP",
    "mls": "nas_osr.scoring.logits:MLS",
    "sml": "nas_osr.scoring.standardised:SML",
    "energy": "nas_osr.scoring.logits:Energy",
    "gen": "nas_osr.scoring.logits:GEN",
    "class_thresholds": "nas_osr.scoring.class_thresholds:ClassThresholds",
    "openmax": "nas_osr.scoring.openmax:OpenMax",
    "crosr": "nas_osr.scoring.crosr:CROSR",
    "neighbours": "nas_osr.scoring.neighbours:Neighbours",
    "knn": "nas_osr.scoring.neighbours:KNN",
    "nnguide": "nas_osr.scoring.neighbours:NNGuide",
    "mahalanobis": "nas_osr.scoring.mahalanobis:Mahalanobis",
    "relative_mahalanobis": "nas_osr.scoring.mahalanobis:RelativeMahalanobis",
    "vim": "nas_osr.scoring.vim:ViM",
    "fdbd": "nas_osr.scoring.linear_head:FDBD",
    "gradnorm": "nas_osr.scoring.linear_head:GradNorm",
    "feature_norm": "nas_osr.scoring.linear_head:FeatureNorm",
    "react": "nas_osr.scoring.shaping:ReAct",
    "ash": "nas_osr.scoring.shaping:ASH",
    "scale": "nas_osr.scoring.shaping:SCALE",
    "knn_layers": "nas_osr.scoring.layers:KNNLayers",
    "rotpred": "nas_osr.scoring.rotation:RotationConfidence",
    "odin": "nas_osr.scoring.odin:ODIN",
    "nc_distance": "nas_osr.scoring.centroids:NCDistance",
    "nc_uncertainty": "nas_osr.scoring.centroids:NCUncertainty",
}

ALL_RULES = "all"  # in place of names
BRIDGE = "pytorch_ood."  # in front of the name of one of that library's detectors


def rule_class(name: str, *, import_plugins: bool = True) -> type[ScoringRule]:
    """The rule of this name or dotted path (see `nas_osr.plugins.load_class`), or a detector of pytorch-ood as one.

    Raises:
        UserError: no such rule or module, or the class is not a `ScoringRule` that has `scores`.
    """
    from nas_osr.scoring.base import ScoringRule

    if name.startswith(BRIDGE):
        from nas_osr.scoring.bridge import detector_rule

        return detector_rule(name.removeprefix(BRIDGE))
    found = load_class("scoring rule", name, RULES, ScoringRule, import_plugins=import_plugins)
    if found.scores is ScoringRule.scores:
        raise UserError(f"scoring rule '{name}' has no method scores(outputs), which returns Scores: it must have one")
    return found


def make_rule(name: str, config: Mapping[str, Any] | None = None, *, import_plugins: bool = True) -> ScoringRule:
    """A new rule with the settings `config`, keyed by the parameters of its constructor.

    Raises:
        UserError: an unknown name (see `rule_class`), an unknown key, one that has no default and is not given, or a
            value that the rule refuses.
    """
    rule = rule_class(name, import_plugins=import_plugins)
    settings, parameters = dict(config or {}), inspect.signature(rule).parameters
    valid = list(parameters)
    unknown = [str(key) for key in settings if key not in valid]
    if unknown:
        raise UserError(
            f"scoring rule '{name}' has no setting {', '.join(unknown)}; it has {', '.join(valid) or 'none'}"
            f"{suggest(unknown[0], valid)}"
        )
    missing = [key for key, parameter in parameters.items() if is_required(parameter) and key not in settings]
    if missing:
        wanted = " and ".join(f"--rule_config.{key} VALUE" for key in missing)
        raise UserError(f"scoring rule '{name}' has no default for {', '.join(missing)}: give {wanted}")
    return rule(**settings)


def is_required(parameter: inspect.Parameter) -> bool:
    """Whether a call has to give it."""
    collects = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and not collects


def check_rule(rule: type[ScoringRule], objective: type[Objective], side_task: str = "none") -> None:
    """Raise UserError unless the objective, with this side task, can feed the rule, see `can_feed`."""
    missing = [name for name in sorted(rule.needs) if name not in objective.provides]
    if rule.needs_head and not missing and not objective.last_layer:
        missing = ["logits that are linear in the embedding"]
    if not missing and rule.needs_side not in ("", side_task):
        raise UserError(
            f"scoring rule '{rule.name}' needs a network that has learned {rule.needs_side} beside its objective: "
            f"train with --objective_config.side_task {rule.needs_side}"
        )
    if missing:
        raise UserError(
            f"scoring rule '{rule.name}' needs {', '.join(missing)}, which objective '{objective.name}' "
            f"does not provide; it feeds: {', '.join(rules_for(objective)) or 'no rule'}"
        )


def rules_for(objective: type[Objective], side_task: str = "none") -> list[str]:
    """The names of the shipped rules that an objective can feed."""
    rules = {name: rule_class(name) for name in RULES}
    return [name for name, rule in rules.items() if can_feed(objective, rule, side_task)]


def can_feed(objective: type[Objective], rule: type[ScoringRule], side_task: str = "none") -> bool:
    """Whether an objective provides every field of `Outputs`, the last layer and the side task that the rule needs."""
    headed = bool(objective.last_layer) or not rule.needs_head
    return rule.needs <= objective.provides and headed and rule.needs_side in ("", side_task)


def list_rules(text: str, objective: type[Objective] | None = None, side_task: str = "none") -> list[str]:
    """The names in a list such as `mls,energy`, each once; `all` in it is every shipped rule that the objective feeds.

    Where the objective is not known (None), `all` are none.
    """
    found: list[str] = []
    for name in map(str.strip, text.split(",")):
        if name != ALL_RULES:
            found.append(name)
        elif objective is not None:
            found += rules_for(objective, side_task)
    return list(dict.fromkeys(found))
