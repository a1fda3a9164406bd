"""NSGA-II (Deb et al. 2002): architectures of which none is both better and smaller than another. Optuna's selects."""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from nas_osr.option_docs import Range
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.architectures.sampling import mutate_architecture
from nas_osr.seeds import derive_seed
from nas_osr.strategies.base import SearchPlan
from nas_osr.strategies.trials.asking import draw_new, draw_uniformly
from nas_osr.strategies.trials.base import Trials, TrialsConfig
from nas_osr.strategies.trials.study import Direction
from nas_osr.strategies.trials.trial import Tried

if TYPE_CHECKING:
    from optuna import Study


@dataclass(frozen=True)
class NSGAConfig(TrialsConfig):
    """Options of NSGA-II."""

    trials: Annotated[int, Range(1)] = 24
    "how many architectures are tried."
    population: Annotated[int, Range(2)] = 8
    "architectures of a generation; as many of it and the one before survive."
    against: Literal["parameters", "macs", "memory", "latency"] = "parameters"
    "what is to be small beside a large score."


class NSGA(Trials):
    """The front of score against size; the best score of all is the one that is taken."""

    Config = NSGAConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"trials": 100, "population": 20},
        "tiny": {"trials": 12, "population": 4},
    }

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._study: Study | None = None
        self._told: list[tuple[float, ...]] = []

    @property
    def needs_latencies(self) -> bool:
        return self.config.against == "latency"  # type: ignore[no-any-return]

    def random_first(self) -> int:
        return self.config.population  # type: ignore[no-any-return]

    def propose(self, plan: SearchPlan, trial: int, tried: Sequence[Tried]) -> Architecture:
        """A random one in the first generation, then a mutant of the winner of a tournament of two survivors."""
        parents = self.survivors(tried)
        if not parents:
            return draw_uniformly(plan, trial, tried)
        draw = random.Random(derive_seed(plan.seed, "tournament", trial))
        one, other = (tried[draw.choice(parents)] for _ in range(2))
        parent = other if self.dominates(other, one) else one
        return draw_new(plan, trial, tried, lambda seed: mutate_architecture(parent.architecture, seed))

    def directions(self) -> tuple[Direction, ...]:
        return ("maximize", "minimize")

    def objectives(self, done: Tried) -> tuple[float, ...]:
        """Score and size."""
        return done.score, float(done.record[self.config.against])

    def dominates(self, one: Tried, other: Tried) -> bool:
        """Whether `one` is no worse and no larger than the other, and not the same."""
        (score, size), (other_score, other_size) = self.objectives(one), self.objectives(other)
        return score >= other_score and size <= other_size and (score, size) != (other_score, other_size)

    def survivors(self, tried: Sequence[Tried]) -> list[int]:
        """The trials that have survived the last whole generation; none where there is none yet."""
        from optuna.samplers import NSGAIISampler

        values = [self.objectives(done) for done in tried]
        if self._study is None or values[: len(self._told)] != self._told:
            self._study, self._told = silent_study(self.config.population), []
        sampler = self._study.sampler
        assert isinstance(sampler, NSGAIISampler)
        for pair in values[len(self._told) :]:
            told = self._study.ask()
            sampler.get_trial_generation(self._study, self._study.get_trials(deepcopy=False)[-1])  # notes it
            self._study.tell(told, pair)
        self._told = values
        generation = len(tried) // self.config.population
        # the sampler has them in another order when it is asked again
        return sorted(parent.number for parent in sampler.get_parent_population(self._study, generation))


def silent_study(population: int) -> Study:
    """A study in memory whose sampler knows generations, and proposes nothing itself."""
    import optuna

    said = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.NSGAIISampler(
                population_size=population, seed=0, child_generation_strategy=lambda study, space, parents: {}
            )
        return optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    finally:
        optuna.logging.set_verbosity(said)
