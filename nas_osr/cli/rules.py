"""`nas-osr rules`: which objective feeds which scoring rule, and where each rule comes from."""

from __future__ import annotations

from nas_osr.cli.show import show_json, show_table
from nas_osr.objectives import OBJECTIVES
from nas_osr.plugins import read_attribute
from nas_osr.scoring import BRIDGE, RULES
from nas_osr.scoring.detectors import DETECTORS


def rules(json: bool = False) -> None:
    """Show which objective feeds which scoring rule, with the rule's paper; an objective's default is marked with `*`.

    Below are the detectors of pytorch-ood that are rules, with their papers.

    Args:
        json: print one JSON object: `objectives` has the rules of each objective, its default first, and `papers` the
            paper of each rule.
    """
    needs = {rule: read_attribute(found, "needs") for rule, found in RULES.items()}
    provides = {name: read_attribute(found, "provides") for name, found in OBJECTIVES.items()}
    heads = {name: read_attribute(found, "last_layer", default="") for name, found in OBJECTIVES.items()}
    reads_head = {rule: read_attribute(found, "needs_head", default=False) for rule, found in RULES.items()}
    side = {rule: read_attribute(found, "needs_side", default="") for rule, found in RULES.items()}
    fed = {
        name: [
            rule
            for rule in RULES
            if needs[rule] <= provides[name] and (heads[name] or not reads_head[rule]) and not side[rule]
        ]
        for name in OBJECTIVES
    }
    defaults = {name: read_attribute(found, "default_rule") for name, found in OBJECTIVES.items()}
    papers = {rule: read_attribute(found, "paper") for rule, found in RULES.items()}
    bridged = {f"{BRIDGE}{name}": paper for name, paper in DETECTORS.items()}
    if json:
        objectives = {name: sorted(fed[name], key=lambda rule: rule != defaults[name]) for name in fed}
        show_json({"objectives": objectives, "papers": papers | bridged})
        return
    rows = [["rule", *OBJECTIVES, "paper"]]
    for rule in RULES:
        marks = ("*" if rule == defaults[name] else "yes" if rule in fed[name] else "-" for name in OBJECTIVES)
        rows.append([rule, *marks, papers[rule]])
    show_table(rows)
    for rule, task in side.items():
        if task:
            print(f"{rule}: for networks that have learned it besides (--objective_config.side_task {task})")
    print("\nDetectors of logits or features of pytorch-ood (pip install nas-osr[ood]):\n")
    show_table([["rule", "paper"], *([rule, paper] for rule, paper in bridged.items())])
