"""`nas-osr table`: what a table of trained architectures says, and how strategies fare on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from nas_osr.cli.show import show_json, show_table
from nas_osr.configuration import Checked
from nas_osr.errors import UserError
from nas_osr.option_docs import POSITIVE, Choices
from nas_osr.strategies import STRATEGIES
from nas_osr.strategies.search_request import Criterion


@dataclass
class TableRequest(Checked):
    """Show what a table of `nas-osr tabulate` says; nothing is trained.

    How far architectures differ, what tells the good ones, and which strategy finds them at what cost.

    A strategy sees the figures with known classes in the place of the unknown. The true ones judge what it finds.
    """

    file: str
    "the table, or its folder."
    strategy: Annotated[list[str], Choices(STRATEGIES, plugins=True)] = field(
        default_factory=lambda: ["random", "evolution", "halving", "nsga"]
    )
    "strategies of trials, by name or dotted path; random comes first to be compared with."
    strategy_config: dict[str, Any] = field(default_factory=dict)
    "options of all of them, and of one under its name: --strategy_config.evolution.population 10."
    criterion: Criterion = "f1"
    "which score picks: f1, auroc or oscr of pseudo-unknown classes."
    rule: str | None = None
    "the scoring rule; the table's first when not given."
    rotations: Annotated[int, POSITIVE] = 1
    "of the table, whose mean counts; each costs a training."
    costs: Annotated[list[float], POSITIVE] = field(default_factory=lambda: [4, 8, 16, 32, 64])
    "budgets in whole trainings, rising."
    seeds: Annotated[int, POSITIVE] = 100
    "searches of each strategy."
    json: bool = False
    "print the result as one JSON object."

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.costs != sorted(set(self.costs)):
            raise UserError(f"costs must rise, got {', '.join(f'{cost:g}' for cost in self.costs)}")
        own = {name: self.strategy_config[name] for name in self.strategy if name in self.strategy_config}
        for name, settings in own.items():
            if not isinstance(settings, dict):
                raise UserError(f"strategy_config: {name} is a strategy: name a setting of it, as {name}.SETTING")
        for name in ("criterion", "rotations"):
            if any(name in settings for settings in (self.strategy_config, *own.values())):
                raise UserError(f"strategy_config: {name} is the same for all strategies here: give it as --{name}")


def show_search_table(request: TableRequest, command: list[str]) -> None:
    """Print the spread, what the whole space promises, the rank correlations and the regret of every strategy."""
    from nas_osr.strategies.table import read_table
    from nas_osr.strategies.table_report import compare_strategies, correlate, describe_spread, foretell_space
    from nas_osr.strategies.table_trials import Conditions, can_answer

    found = read_table(request.file)
    rule = found.check_rule(request.rule)
    spread, correlations, space = describe_spread(found, rule), correlate(found, rule), foretell_space(found, rule)
    settings = {"criterion": request.criterion, "rotations": request.rotations, **request.strategy_config}
    names = [name for name in request.strategy if found.header["rotations"] and can_answer(found, name)]
    conditions = Conditions(rule, request.rotations)
    regrets = dict(compare_strategies(found, names, settings, conditions, request.costs, request.seeds))
    if request.json:
        counts = {"architectures": len(found.rows), "rule": rule}
        show_json({**counts, "spread": spread, "correlations": correlations, "space": space, "strategies": regrets})
        return
    print(f"true AUROC by {rule} of {len(found.rows)} architectures, means over {found.header['seeds']} seeds:")
    show_table([[*spread], ["-" if value is None else f"{value:.4f}" for value in spread.values()]])
    if space:
        print(
            f"\nthe best of {space['draws']:,} random networks of the whole space, as these foretell: "
            f"{space['auroc']:.4f} ± {space['deviation']:.4f} (--json has it)"
        )
    print("\nrank correlation with it (95 % interval over architectures):")
    show_table([["criterion", "correlation"], *([name, show_interval(value)] for name, value in correlations.items())])
    if not names:
        print("\nno strategies: they need a table with rotations, and most of them one of the whole space")
        return
    how = f"by {request.criterion}, {request.seeds} searches each (95 %)"
    print(f"\nregret in AUROC points after so many whole trainings, {how}:")
    show_table([["strategy", *(f"{cost:g}" for cost in request.costs)], *regret_rows(regrets)])
    if left_out := [name for name in request.strategy if name not in names]:
        print(f"\nnot asked, since the table is a sample of its space: {', '.join(left_out)}")


def regret_rows(regrets: dict[str, Any]) -> list[list[str]]:
    """A row for each strategy, and one below for how far it is ahead of random."""
    rows = []
    for name, costs in regrets.items():
        rows.append([name, *(show_interval(found["regret"], 100, 2) for found in costs.values())])
        if any(found["ahead"] for found in costs.values()):
            rows.append(["  ahead of random by", *(show_interval(found["ahead"], 100, 2) for found in costs.values())])
    return rows


def show_interval(found: Any, factor: float = 1, digits: int = 3) -> str:
    """A mean and its interval as text."""
    if found is None:
        return "-"
    middle, low, high = (f"{factor * value:.{digits}f}" for value in found)
    return f"{middle} [{low}, {high}]"
