"""`nas-osr rules`: which objective feeds which scoring rule."""

from __future__ import annotations

from nas_osr.cli.show import show_json, show_table


def rules(json: bool = False) -> None:
    """Show which objective feeds which scoring rule; the default rule of each objective is marked with `*`.

    Args:
        json: print one JSON object: the rules of each objective, its default first.
    """
    from nas_osr.objectives import OBJECTIVES, objective_class
    from nas_osr.scoring import RULES, rules_for

    fed = {name: rules_for(objective_class(name)) for name in OBJECTIVES}
    defaults = {name: objective_class(name).default_rule for name in OBJECTIVES}
    if json:
        show_json({name: sorted(fed[name], key=lambda rule: rule != defaults[name]) for name in fed})
        return
    rows = [["objective", *RULES]]
    for name in OBJECTIVES:
        rows.append([name, *("*" if rule == defaults[name] else "yes" if rule in fed[name] else "-" for rule in RULES)])
    show_table(rows)
