"""Asynchronous successive halving (Li et al. 2020, Algorithm 2): many short trainings, of which the better part go on.

Rung k holds the architectures that have been trained for `shortest * factor^k` epochs, the last one those trained for
all. Whenever there is room for a training, the best of a rung's top 1/factor that has not gone on does so, from where
its training ended, the highest rung first; where no rung has one, a new architecture is drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count, pairwise, takewhile
from typing import Annotated, Any, ClassVar

from nas_osr.errors import UserError
from nas_osr.option_docs import Range
from nas_osr.runs.progress import tell
from nas_osr.strategies.base import SearchPlan
from nas_osr.strategies.trials.asking import draw_uniformly
from nas_osr.strategies.trials.base import Trials, TrialsConfig
from nas_osr.strategies.trials.trial import Proposal, Tried


@dataclass(frozen=True)
class HalvingConfig(TrialsConfig):
    """Options of successive halving."""

    trials: Annotated[int, Range(1)] = 24
    "how many trainings there are, those that go on counted again."
    shortest: Annotated[int, Range(1)] = 1
    "epochs of the first rung."
    factor: Annotated[int, Range(2)] = 3
    "of every so many architectures of a rung one goes on, for so many times its epochs."


class Halving(Trials):
    """Asynchronous successive halving."""

    Config = HalvingConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {"trials": 100}, "tiny": {"trials": 16}}
    epochs: ClassVar[Mapping[str, int]] = {"paper": 27, "small": 9, "tiny": 9}
    continues = True
    draws = True

    def rungs(self, plan: SearchPlan) -> list[int]:
        """The epochs of every rung, rising."""
        lengths = (self.config.shortest * self.config.factor**rung for rung in count())
        return [*takewhile(lambda epochs: epochs < plan.weights.epochs, lengths), plan.weights.epochs]

    def check_plan(self, plan: SearchPlan) -> None:
        """UserError when there are no two rungs."""
        super().check_plan(plan)
        if len(self.rungs(plan)) < 2:
            raise UserError(f"shortest must be less than epochs, {plan.weights.epochs}, got {self.config.shortest}")

    def random_first(self) -> int:
        return self.config.factor  # type: ignore[no-any-return]

    def lag(self, plan: SearchPlan) -> int:
        """As of other strategies, or as many as there are jobs where only so a higher rung is reached."""
        far, rungs = super().lag(plan), len(self.rungs(plan))
        return plan.jobs if self.reached(rungs, plan.jobs) > self.reached(rungs, far) else far

    def tell_of_plan(self, plan: SearchPlan) -> None:
        """A line where the last rung is out of reach."""
        super().tell_of_plan(plan)
        rungs, lag = self.rungs(plan), self.lag(plan)
        longest = self.reached(len(rungs), lag)
        if longest < len(rungs) - 1 and not plan.output.quiet:
            beside = f" with {plan.jobs} jobs" if plan.jobs > 1 else ""
            tell(
                f"{self.config.trials} trainings{beside} may be too few for the last rung: unless later ones do better "
                f"than earlier ones, none takes more than {rungs[longest]} of {rungs[-1]} epochs "
                "(more trials, fewer jobs or --epochs)"
            )

    def reached(self, rungs: int, lag: int) -> int:
        """The highest of so many rungs that a training reaches, where each is worse than those before it."""
        asked: list[int] = []
        for trial in range(self.config.trials):
            there = Counter(asked[: max(0, trial + 1 - lag)])
            ready = (
                rung for rung in reversed(range(rungs - 1)) if there[rung] // self.config.factor > asked.count(rung + 1)
            )
            asked.append(next(ready, -1) + 1)
        return max(asked)

    def trained_epochs(self, plan: SearchPlan) -> float:
        """At most, when a rung has its share of all trainings."""
        rungs, factor = self.rungs(plan), self.config.factor
        shares = [float(factor) ** -rung for rung in range(len(rungs))]
        added = [after - before for before, after in zip([0, *rungs], rungs, strict=False)]
        mean = sum(share * epochs for share, epochs in zip(shares, added, strict=True)) / sum(shares)
        return float(self.config.trials * mean)

    def suggest(self, plan: SearchPlan, tried: Sequence[Tried], asked: Sequence[Proposal]) -> Proposal:
        rungs = self.rungs(plan)
        gone_on = {proposal.follows for proposal in asked}
        for rung, longer in reversed([*pairwise(rungs)]):
            there = [trial for trial in range(len(tried)) if asked[trial].epochs == rung]
            ranked = sorted(there, key=lambda trial: -tried[trial].score)  # on ties the earlier first
            for trial in ranked[: len(ranked) // self.config.factor]:
                if trial not in gone_on:
                    return Proposal(asked[trial].architecture, longer, follows=trial)
        drawn = sum(proposal.follows is None for proposal in asked)
        return Proposal(draw_uniformly(plan, len(asked), tried, drawn), rungs[0])

    def best(self, plan: SearchPlan, tried: Sequence[Tried]) -> Tried:
        """The best of those that were trained longest."""
        longest = max(done.record["trained_epochs"] for done in tried)
        return super().best(plan, [done for done in tried if done.record["trained_epochs"] == longest])
