"""`nas-osr rules`: which objective feeds which scoring rule."""

from __future__ import annotations

from nas_osr.cli.show import show_json, show_table
from nas_osr.objectives import OBJECTIVES
from nas_osr.plugins import read_attribute
from nas_osr.scoring import RULES


def rules(json: bool = False) -> None:
    """Show which objective feeds which scoring rule; the default rule of each objective is marked with `*`.

    Args:
        json: print one JSON object: the rules of each objective, its default first.
    """
    needs = {rule: read_attribute(found, "needs") for rule, found in RULES.items()}
    provides = {name: read_attribute(found, "provides") for name, found in OBJECTIVES.items()}
    fed = {name: [rule for rule in RULES if needs[rule] <= provides[name]] for name in OBJECTIVES}
    defaults = {name: read_attribute(found, "default_rule") for name, found in OBJECTIVES.items()}
    if json:
        show_json({name: sorted(fed[name], key=lambda rule: rule != defaults[name]) for name in fed})
        return
    rows = [["objective", *RULES]]
    for name in OBJECTIVES:
        rows.append([name, *("*" if rule == defaults[name] else "yes" if rule in fed[name] else "-" for rule in RULES)])
    show_table(rows)
