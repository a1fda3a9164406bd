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
    "energy": "nas_osr.scoring.logits:Energy",
    "openmax": "nas_osr.scoring.openmax:OpenMax",
    "crosr": "nas_osr.scoring.crosr:CROSR",
    "neighbours": "nas_osr.scoring.neighbours:Neighbours",
    "nc_distance": "nas_osr.scoring.centroids:NCDistance",
    "nc_uncertainty": "nas_osr.scoring.centroids:NCUncertainty",
}

ALL_RULES = "all"  # in place of names


def rule_class(name: str, *, import_plugins: bool = True) -> type[ScoringRule]:
    """The rule of this name or dotted path (see `nas_osr.plugins.load_class`).

    Raises:
        UserError: no such rule or module, or the class is not a `ScoringRule` that has `scores`.
    """
    from nas_osr.scoring.base import ScoringRule

    found = load_class("scoring rule", name, RULES, ScoringRule, import_plugins=import_plugins)
    if found.scores is ScoringRule.scores:
        raise UserError(f"scoring rule '{name}' has no method scores(outputs), which returns Scores: it must have one")
    return found


def make_rule(name: str, config: Mapping[str, Any] | None = None, *, import_plugins: bool = True) -> ScoringRule:
    """A new rule with the settings `config`, keyed by the parameters of its constructor.

    Raises:
        UserError: an unknown name (see `rule_class`), an unknown key, or a value that the rule refuses.
    """
    rule = rule_class(name, import_plugins=import_plugins)
    settings = dict(config or {})
    valid = list(inspect.signature(rule).parameters)
    unknown = [str(key) for key in settings if key not in valid]
    if unknown:
        raise UserError(
            f"scoring rule '{name}' has no setting {', '.join(unknown)}; it has {', '.join(valid) or 'none'}"
            f"{suggest(unknown[0], valid)}"
        )
    return rule(**settings)


def check_rule(rule: type[ScoringRule], objective: type[Objective]) -> None:
    """Raise UserError unless the objective provides every field of `Outputs` that the rule needs."""
    missing = [name for name in sorted(rule.needs) if name not in objective.provides]
    if missing:
        raise UserError(
            f"scoring rule '{rule.name}' needs {', '.join(missing)}, which objective '{objective.name}' "
            f"does not provide; it feeds: {', '.join(rules_for(objective)) or 'no rule'}"
        )


def rules_for(objective: type[Objective]) -> list[str]:
    """The names of the shipped rules that an objective can feed."""
    return [name for name in RULES if rule_class(name).needs <= objective.provides]


def list_rules(text: str, objective: type[Objective] | None = None) -> list[str]:
    """The names in a list such as `mls,energy`, each once; `all` is every shipped rule that the objective feeds.

    Where the objective is not known (None), `all` are none.
    """
    if text == ALL_RULES:
        return [] if objective is None else rules_for(objective)
    return list(dict.fromkeys(name.strip() for name in text.split(",")))
