"""Strategies of trials on a table: no training, seconds for hundreds of seeds.

A strategy sees what a search would have seen: figures after so many epochs on kept classes, with known classes in the
place of the unknown. What it would have taken is judged by the figures on the true unknown classes.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas_osr.data.protocols import Protocol
from nas_osr.errors import UserError
from nas_osr.plans import import_plugins
from nas_osr.requests import RunRequest
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.architectures.canonical import fingerprint
from nas_osr.seeds import derive_seed
from nas_osr.strategies import make_strategy, strategy_class
from nas_osr.strategies.base import SearchPlan
from nas_osr.strategies.search_plan import plan_measurement
from nas_osr.strategies.search_request import SearchRequest
from nas_osr.strategies.table import SearchTable
from nas_osr.strategies.trials.asking import Asking
from nas_osr.strategies.trials.base import Trials
from nas_osr.strategies.trials.trial import Proposal
from nas_osr.strategies.trials.warm_start import rank
from nas_osr.sweeps.job_options import JobOptions

SIZES = ("parameters", "macs")  # of a network, which every table has
NOTHING_NEW = 20  # trials in a row without a training after which a strategy is taken to have seen everything


class TableRecorder:
    """The history of a search on a table; a `Recorder` as far as one needs it."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def history(self) -> list[dict[str, Any]]:
        """All records so far."""
        return self.records


@dataclass(frozen=True)
class Conditions:
    """How trials are judged."""

    rule: str
    "one of the table's."
    rotations: int
    "of the table's first ones, whose mean counts."


def plan_on_table(table: SearchTable, name: str, settings: Mapping[str, Any]) -> SearchPlan:
    """The plan of a search in the table's space; no image is opened.

    UserError: the strategy tries no architectures, needs a table of the whole space, or a setting of it is wrong.
    """
    if not issubclass(strategy_class(name), Trials):
        raise UserError(f"strategy {name} tries no architectures, so that it cannot be asked on a table")
    if not can_answer(table, name):
        raise UserError(f"the table has {len(table.rows)} architectures of a larger space: {name} needs all of it")
    config, known = table.header["config"], {*SearchRequest.__dataclass_fields__}
    known -= {*JobOptions.__dataclass_fields__}
    options = {key: value for key, value in config.items() if key in known}
    request = SearchRequest(**{**options, "epochs": table.header["epochs"], "strategy": name, "strategy_config": {}})
    import_plugins(request.plugin)
    plan = plan_measurement(request, Protocol.from_dict(table.header["protocol"]))  # whose images may be elsewhere
    most = len(table.header["rotations"])
    # a budget ends the search, not the number of trials
    strategy = make_strategy(name, {**settings, "rotations": 1}, config.get("preset", RunRequest.preset))
    if not 1 <= int(settings.get("rotations", 1)) <= most:
        raise UserError(f"rotations must be from 1 to the table's {most}, got {settings['rotations']}")
    plan = replace(plan, strategy=strategy)
    against = getattr(strategy.config, "against", SIZES[0])
    if against not in SIZES:
        raise UserError(f"against: a table has {' and '.join(SIZES)}, got {against}")
    strategy.check_plan(plan)
    return plan


def can_answer(table: SearchTable, name: str) -> bool:
    """Whether a table has what a strategy of trials would ask for: a sample of a space knows random draws only."""
    kind = strategy_class(name)
    return table.header["complete"] or not issubclass(kind, Trials) or kind.draws


def regret_on_table(
    table: SearchTable, plan: SearchPlan, conditions: Conditions, costs: Sequence[float], seeds: Sequence[int]
) -> NDArray[np.float64]:
    """How far the true AUROC of what a search has found by then is below the best of the table.

    True figures are means over the table's seeds after the last epoch.

    Args:
        plan: see `plan_on_table`.
        costs: budgets in whole trainings (of all epochs, a rotation each), rising.
        seeds: of the searches.

    Returns:
        [seeds, costs], in [0, 1]; NaN where nothing has been trained within the budget.
    """
    true = table.true(conditions.rule, "auroc").mean(axis=1)[:, -1]
    rows = []
    for seed in seeds:
        found = search_table(table, replace(plan, seed=seed), conditions, costs[-1])
        regrets = []
        for budget in costs:
            within = [row for cost, row in found if cost <= budget + 1e-9]
            regrets.append(float(true.max() - true[within[-1]]) if within else np.nan)
        rows.append(regrets)
    return np.array(rows)


def search_table(
    table: SearchTable, plan: SearchPlan, conditions: Conditions, budget: float
) -> list[tuple[float, int]]:
    """After each trial within the budget, what all have cost (see `regret_on_table`) and which row is best."""
    strategy, recorder, epochs = plan.strategy, TableRecorder(), plan.weights.epochs
    assert isinstance(strategy, Trials)
    strategy = type(strategy)(strategy.config)  # without what one has learned in a search before
    rows = range(0 if table.header["complete"] else len(table.rows))
    among = tuple(table.architecture(row) for row in rows)
    plan = replace(plan, strategy=strategy, first=first_on_table(table, plan), among=among)
    asking = Asking(strategy, plan, recorder)
    cost, found = 0.0, []
    repeats = 0
    for trial in count():
        proposal = asking.next()
        assert proposal is not None
        repeated = asking.repeat(trial)
        repeats = repeats + 1 if repeated else 0
        if repeats > NOTHING_NEW:
            break
        if repeated is None:
            begun = 0 if proposal.follows is None else asking.asked[proposal.follows].epochs
            cost += (proposal.epochs - begun) / epochs * conditions.rotations
            if cost > budget + 1e-9:
                break
        recorder.records.append(repeated[0] if repeated else look_up(table, proposal, trial, conditions))
        asking.told()
        best = strategy.best(plan, asking.tried)
        found.append((cost, table.place[best.fingerprint]))
    return found


def first_on_table(table: SearchTable, plan: SearchPlan) -> tuple[Architecture, ...]:
    """What a warm start has: the best of so many different rows by the table's column of its score.

    UserError: the table has no such column.
    """
    config = plan.strategy.config
    if config.warm_start == "none":
        return ()
    if any(config.warm_start not in row for row in table.rows):
        raise UserError(f"warm_start: the table has no column {config.warm_start}")
    generator = random.Random(derive_seed(plan.seed, "warm start"))
    rows = generator.sample(range(len(table.rows)), min(config.warm_draws, len(table.rows)))
    best = rank([table.rows[row][config.warm_start] for row in rows])[: config.warm_trials]
    return tuple(table.architecture(rows[place]) for place in best)


def look_up(table: SearchTable, proposal: Proposal, trial: int, conditions: Conditions) -> dict[str, Any]:
    """The record of a trial, as the history of a search has it. UserError: the table has no such network."""
    row = table.place.get(fingerprint(proposal.architecture))
    if row is None:
        raise UserError("the strategy has proposed a network that the table has not: draw it with `draw_within`")
    scores = {
        score: float(table.pas(conditions.rule, score)[row, : conditions.rotations, proposal.epochs - 1].mean())
        for score in table.header["scores"]
    }
    return {
        "epoch": trial,
        **scores,
        **proposal.architecture.describe(),
        **{name: table.rows[row][name] for name in SIZES},
        "trained_epochs": proposal.epochs,
        "follows": proposal.follows,
    }
