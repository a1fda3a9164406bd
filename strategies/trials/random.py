"""The best of n architectures, drawn uniformly from the space."""

from __future__ import annotations

from collections.abc import Sequence

from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.strategies.base import SearchPlan
from nas_osr.strategies.trials.asking import draw_uniformly
from nas_osr.strategies.trials.base import Trials
from nas_osr.strategies.trials.trial import Tried


class Random(Trials):
    """Random search: what every other strategy has to beat."""

    draws = True

    def propose(self, plan: SearchPlan, trial: int, tried: Sequence[Tried]) -> Architecture:
        """One drawn from the search's seed and the number of the trial."""
        return draw_uniformly(plan, trial, tried)
