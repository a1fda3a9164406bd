"""Strategies: how an architecture is found, by name. Free of torch until one is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nas_osr.configuration import make_config
from nas_osr.plugins import load_class

if TYPE_CHECKING:
    from nas_osr.search_spaces.space import Space
    from nas_osr.strategies.base import Strategy

STRATEGIES: dict[str, str] = {
    "pas": "nas_osr.strategies.bilevel.pas:PAS",
    "darts": "nas_osr.strategies.bilevel.pas:DARTS",
    "single_path": "nas_osr.strategies.sampled.single_path:SinglePath",
    "random": "nas_osr.strategies.trials.random:Random",
    "evolution": "nas_osr.strategies.trials.evolution:Evolution",
    "halving": "nas_osr.strategies.trials.halving:Halving",
    "predictor": "nas_osr.strategies.trials.performance_predictor:Predictor",
    "nsga": "nas_osr.strategies.trials.nsga:NSGA",
}


def strategy_class(name: str) -> type[Strategy]:
    """The strategy of this name or dotted path (see `nas_osr.plugins.load_class`); UserError when there is none."""
    from nas_osr.strategies.base import Strategy

    return load_class("strategy", name, STRATEGIES, Strategy)


def make_strategy(name: str, settings: Mapping[str, Any], preset: str, space: Space | None = None) -> Strategy:
    """A strategy with all of its options: its own defaults, those for the preset and the space, then the settings.

    UserError: there is no such strategy, or a setting is unknown or out of range.
    """
    chosen = strategy_class(name)
    return chosen(make_config(f"strategy {name}", chosen.Config, {**chosen.usual(preset, space, settings), **settings}))
