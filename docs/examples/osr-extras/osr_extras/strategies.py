"""A search strategy."""

from nas_osr.search_spaces.architectures.sampling import mutate_architecture, sample_architecture
from nas_osr.seeds import derive_seed
from nas_osr.strategies.trials.base import Trials


class Climb(Trials):
    """Changes one thing of the best architecture so far."""

    def propose(self, plan, trial, tried):
        seed = derive_seed(plan.seed, "climb", trial)
        if not tried:
            return sample_architecture(plan.space, seed)
        best = max(tried, key=lambda done: done.score).architecture
        return mutate_architecture(best, seed)
