"""Regularised evolution (Real et al. 2019, Algorithm 1): the winner of a tournament is mutated, the oldest dies."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from nas_osr.errors import UserError
from nas_osr.option_docs import Range
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.architectures.sampling import mutate_architecture
from nas_osr.seeds import derive_seed
from nas_osr.strategies.base import SearchPlan
from nas_osr.strategies.trials.asking import draw_new, draw_uniformly
from nas_osr.strategies.trials.base import Trials, TrialsConfig
from nas_osr.strategies.trials.trial import Tried


@dataclass(frozen=True)
class EvolutionConfig(TrialsConfig):
    """Options of regularised evolution."""

    trials: Annotated[int, Range(1)] = 24
    "how many architectures are tried."
    population: Annotated[int, Range(2)] = 8
    "how many of the last ones may have children; so many are drawn at random first."
    tournament: Annotated[int, Range(1)] = 4
    "how many of them are drawn each time, of which the best is mutated."

    def __post_init__(self) -> None:
        super().__post_init__()
        check_tournament(self.tournament, self.population)


class Evolution(Trials):
    """Regularised evolution."""

    Config = EvolutionConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"trials": 100, "population": 25, "tournament": 8},
        "tiny": {"trials": 12, "population": 4, "tournament": 2},
    }

    def random_first(self) -> int:
        return self.config.population  # type: ignore[no-any-return]

    def propose(self, plan: SearchPlan, trial: int, tried: Sequence[Tried]) -> Architecture:
        """A random one at first, then a mutant of the winner of a tournament among the last ones."""
        return evolve(plan, trial, tried, self.config.population, self.config.tournament)


def check_tournament(tournament: int, population: int) -> None:
    """UserError unless so many can be drawn of a population."""
    if tournament > population:
        raise UserError(f"tournament must be at most the population, {population}, got {tournament}")


def evolve(plan: SearchPlan, trial: int, tried: Sequence[Tried], population: int, tournament: int) -> Architecture:
    """What regularised evolution tries next, from the seed of the search and the number of the trial."""
    if len(tried) < population:
        return draw_uniformly(plan, trial, tried)
    alive = tried[-population:]
    entrants = random.Random(derive_seed(plan.seed, "tournament", trial)).sample(range(len(alive)), tournament)
    parent = max((alive[place] for place in sorted(entrants)), key=lambda done: done.score).architecture
    return draw_new(plan, trial, tried, lambda seed: mutate_architecture(parent, seed))
