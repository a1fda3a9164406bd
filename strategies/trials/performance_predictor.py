"""Search by a performance predictor (Wen et al. 2020; White et al. 2021): what trials say of untried networks.

After some random trials a Gaussian process learns the score of a network from its choices and its size. From then on
the draw with the highest predicted score is tried, and at the end the trial is taken whose score it holds for the
highest: a score has noise, and the luckiest of equals is no better than they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nas_osr.option_docs import POSITIVE, Range
from nas_osr.runs.progress import tell
from nas_osr.runs.recorder import Recorder
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.architectures.canonical import fingerprint
from nas_osr.search_spaces.architectures.sampling import mutate_architecture
from nas_osr.seeds import derive_seed
from nas_osr.strategies.base import SearchPlan
from nas_osr.strategies.trials.asking import draw_uniformly, draw_within
from nas_osr.strategies.trials.base import Trials, TrialsConfig
from nas_osr.strategies.trials.score_predictor import Description, ScorePredictor
from nas_osr.strategies.trials.trial import Proposal, Tried

PARENTS = 5  # of the trials, the best by prediction, whose mutants are candidates, too
LEARN_AGAIN = 1.25  # times as many trials after which the process learns anew how smooth scores are

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PredictorConfig(TrialsConfig):
    """Options of a search by a predictor."""

    trials: Annotated[int, Range(1)] = 24
    "how many architectures are tried."
    initial: Annotated[int, Range(2)] = 8
    "how many of them are drawn at random first, for the predictor to learn from."
    candidates: Annotated[int, POSITIVE] = 200
    "of how many draws the one with the highest predicted score is tried next; half of them are mutants of the best."


class Predictor(Trials):
    """A Gaussian process over choices and sizes, asked for the best of many draws."""

    Config = PredictorConfig
    presets: ClassVar[Any] = {
        "paper": {"trials": 100, "initial": 20, "candidates": 1000},
        "tiny": {"trials": 12, "initial": 4, "candidates": 50},
    }
    draws = True

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._described: dict[str, Description] = {}
        self._learned: tuple[list[tuple[str, float]], Any] = ([], None)
        self._fitted: tuple[list[tuple[str, float]], Any] = ([], None)

    def random_first(self) -> int:
        return self.config.initial  # type: ignore[no-any-return]

    def suggest(self, plan: SearchPlan, tried: Sequence[Tried], asked: Sequence[Proposal]) -> Proposal:
        """A random one at first, then the new candidate with the highest predicted score."""
        trial, epochs = len(asked), plan.weights.epochs
        if len(tried) < self.config.initial:
            return Proposal(draw_uniformly(plan, trial, tried), epochs)
        known = {fingerprint(proposal.architecture) for proposal in asked}
        found: dict[str, Architecture] = {}
        for drawn in self.candidates(plan, trial, tried):
            found.setdefault(fingerprint(drawn), drawn)
        new = [drawn for name, drawn in found.items() if name not in known]
        if not new:
            return Proposal(draw_uniformly(plan, trial, tried), epochs)
        predicted = self.predictor(plan, tried).predict([self.describe(plan, drawn) for drawn in new])
        return Proposal(new[int(predicted.argmax())], epochs)

    def candidates(self, plan: SearchPlan, trial: int, tried: Sequence[Tried]) -> Iterator[Architecture]:
        """Draws within the budget, every other one a mutant of one of the best trials where the space is not a list."""
        expected = self.expected(plan, tried)
        parents = [tried[place].architecture for place in np.argsort(-expected, kind="stable")[:PARENTS]]
        for number in range(self.config.candidates):
            seed = derive_seed(plan.seed, "candidate", trial, number)
            if number % 2 and not plan.among:
                mutant = mutate_architecture(parents[number // 2 % len(parents)], seed)
                if plan.budget.fits(mutant):
                    yield mutant
            else:
                yield draw_within(plan, seed)

    def best(self, plan: SearchPlan, tried: Sequence[Tried]) -> Tried:
        """The one whose score is predicted to be the highest, given all of them; before there is a predictor, the one
        with the highest score."""
        return tried[int(self.expected(plan, tried).argmax())]

    def conclude(self, plan: SearchPlan, tried: Sequence[Tried], recorder: Recorder) -> None:
        """Say so where the highest score is not what is taken."""
        taken, highest = self.best(plan, tried), super().best(plan, tried)
        if taken is not highest and not plan.output.quiet:
            number, other = taken.record["epoch"], highest.record["epoch"]
            tell(
                f"trial {other + 1} has the highest {self.criterion}, {highest.score:.4f}; by what all trials say, "
                f"trial {number + 1} with {taken.score:.4f} is better, and it is taken"
            )

    def expected(self, plan: SearchPlan, tried: Sequence[Tried]) -> Array:
        """What the predictor holds for the true score of each trial [trials]; scores where there are too few."""
        if len(tried) < self.config.initial:
            return np.array([done.score for done in tried])
        return self.predictor(plan, tried).predict([self.describe(plan, done.architecture) for done in tried])

    def predictor(self, plan: SearchPlan, tried: Sequence[Tried]) -> ScorePredictor:
        """What has learned from these trials, of which there are at least as many as `initial`."""
        known, first = [(done.fingerprint, done.score) for done in tried], learned_from(self.config.initial, len(tried))
        if self._fitted[0] != known:
            rows, scores = [self.describe(plan, done.architecture) for done in tried], [done.score for done in tried]
            if self._learned[0] != known[:first]:
                self._learned = known[:first], ScorePredictor(rows[:first], np.array(scores[:first])).kernel
            self._fitted = known, ScorePredictor(rows, np.array(scores), self._learned[1])
        return self._fitted[1]  # type: ignore[no-any-return]

    def describe(self, plan: SearchPlan, architecture: Architecture) -> Description:
        """See `Description.of`."""
        key = fingerprint(architecture)
        if key not in self._described:
            self._described[key] = Description.of(architecture, plan.protocol.image_shape)
        return self._described[key]


def learned_from(initial: int, trials: int) -> int:
    """Of how many first trials the process knows how smooth scores are: the last of `initial`, and a quarter more each
    time, that there are."""
    count = initial
    while (following := max(count + 1, int(LEARN_AGAIN * count))) <= trials:
        count = following
    return count
