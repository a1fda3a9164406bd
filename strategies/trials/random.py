"""The best of n architectures, drawn uniformly from the space."""

from __future__ import annotations

from collections.abc import Sequence

from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.architectures.sampling import sample_architecture
from nas_osr.seeds import derive_seed
from nas_osr.strategies.base import SearchPlan
from nas_osr.strategies.trials.base import Trials, Tried


class Random(Trials):
    """Random search: what every other strategy has to beat."""

    def propose(self, plan: SearchPlan, trial: int, tried: Sequence[Tried]) -> Architecture:
        """One drawn from the search's seed and the number of the trial."""
        return sample_architecture(plan.space, derive_seed(plan.seed, "trial", trial))
