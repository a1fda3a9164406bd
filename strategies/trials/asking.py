"""What a search of trials proposes next, and which of it needs no training."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from nas_osr.errors import UserError
from nas_osr.runs.progress import tell
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.architectures.canonical import fingerprint
from nas_osr.search_spaces.architectures.sampling import sample_architecture
from nas_osr.search_spaces.constrained import best_within, random_weights
from nas_osr.seeds import derive_seed
from nas_osr.strategies.base import SearchPlan
from nas_osr.strategies.trials.trial import Proposal, Tried

REDRAWS = 50  # draws before an architecture is proposed that has been tried
REJECTIONS = 500  # uniform draws for one within a budget


class History(Protocol):
    """What has the trials that are done; a `Recorder` is one."""

    def history(self) -> list[dict[str, Any]]:
        """The records so far."""


class Asking:
    """What a strategy has proposed, and how it did.

    Args:
        strategy: a `nas_osr.strategies.trials.base.Trials`.
        plan: of the search.
        recorder: has the trials that are done.

    Attributes:
        asked: the proposals so far, by trial.
        done: how many trials had been recorded before.
    """

    def __init__(self, strategy: Any, plan: SearchPlan, recorder: History) -> None:
        self.strategy, self.plan, self.recorder = strategy, plan, recorder
        self.lag = strategy.lag(plan)
        self.asked: list[Proposal] = []
        self.tried: list[Tried] = []
        self.done = self.told()

    def told(self) -> int:
        """How many trials have been recorded by now."""
        for record in self.recorder.history()[len(self.tried) :]:
            self.tried.append(self.strategy.read_trial(self.plan.space, record))
        return len(self.tried)

    def known(self, trial: int) -> int:
        """How many results a trial's proposal rests on."""
        return max(0, trial + 1 - self.lag)

    def next(self) -> Proposal | None:
        """The next proposal; None where it has to wait for a result."""
        known = self.known(len(self.asked))
        if self.told() < known:
            return None
        proposal = self.strategy.suggest(self.plan, self.tried[:known], self.asked)
        if proposal.follows is not None:  # what was not trained goes on from what was
            same = self.tried[proposal.follows].record.get("same_as")
            proposal = proposal if same is None else replace(proposal, follows=same)
        if not self.plan.budget.fits(proposal.architecture):
            raise UserError("the strategy has proposed a network above the budget: draw it with `draw_new`")
        self.asked.append(proposal)
        return proposal

    def root(self, trial: int) -> int:
        """The trial in which a trial's training began."""
        follows = self.asked[trial].follows
        return trial if follows is None else self.root(follows)

    def repeat(self, trial: int) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """The record and the timing of a trial that needs no training; else None.

        It needs none where one that computes the same has been trained for as long, among those it may rest on.
        """
        proposal = self.asked[trial]
        wanted = fingerprint(proposal.architecture)
        for number, before in enumerate(self.tried[: self.known(trial)]):
            if self.asked[number].epochs == proposal.epochs and before.fingerprint == wanted:
                record = {**before.record, "epoch": trial, **proposal.architecture.describe(), "same_as": number}
                return record, {"epoch": trial, "seconds": 0.0, "training_seconds": 0.0, "images": 0, "ranks": 1}
        return None


def lag_of(jobs: int, trials: int, first: int) -> int:
    """How many trials a proposal lies after the last one that it may rest on.

    With several jobs twice as many as these, so that none waits for a trial that takes somewhat longer; as many as
    these where otherwise fewer than half of the trials would rest on others.

    Args:
        first: how many results there have to be; 0 where none rest on any.
    """
    if jobs == 1:
        return 1
    return 2 * jobs if first == 0 or 2 * resting(trials, first, 2 * jobs) >= trials else jobs


def resting(trials: int, first: int, lag: int) -> int:
    """How many trials rest on others, where that takes `first` results."""
    return max(0, trials - first - lag + 1)


def tell_of_draws(plan: SearchPlan, first: int, trials: int, lag: int = 1) -> None:
    """A line where none of the trials rests on others, or with several jobs fewer than half of them.

    `first` are the results that it takes, as of `lag_of`; of 0 there is nothing to say.
    """
    count = resting(trials, first, lag)
    if plan.output.quiet or not first:
        return
    beside = "" if lag == 1 else f" with {plan.jobs} jobs"
    if count == 0:
        tell(f"all {trials} trials are random: they rest on others after the first {first + lag - 1} only{beside}")
    elif lag > 1 and 2 * count < trials:
        tell(f"{count} of {trials} trials rest on others{beside}: fewer jobs, or more trials, let more of them do so")


def draw_new(plan: SearchPlan, trial: int, tried: Sequence[Tried], draw: Callable[[int], Architecture]) -> Architecture:
    """What `draw` makes of a seed, within the plan's budget: of several the first that computes what no trial has, or
    else the first; where none of them fits, one drawn from the space.

    Args:
        trial: of which the seeds are.
    """
    known, within = {done.fingerprint for done in tried}, []
    seeds = [derive_seed(plan.seed, "trial", trial)]
    seeds += [derive_seed(plan.seed, "trial", trial, "again", number) for number in range(REDRAWS)]
    for drawn in map(draw, seeds):
        if plan.budget.fits(drawn):
            if fingerprint(drawn) not in known:
                return drawn
            within.append(drawn)
    return within[0] if within else sample_within(plan, seeds[0])


def sample_within(plan: SearchPlan, seed: int, rejections: int = REJECTIONS) -> Architecture:
    """A random architecture within the budget: of uniform draws the first that fits.

    Where none of so many does, the most probable one that fits under random weights of all choices.
    """
    for number in range(rejections):
        drawn = sample_architecture(plan.space, derive_seed(seed, "within", number))
        if plan.budget.fits(drawn):
            return drawn
    found = best_within(plan.space, random_weights(plan.space, seed), plan.budget)
    assert found is not None  # `Budget.check` has seen that something fits
    return found


def draw_within(plan: SearchPlan, seed: int, rejections: int = REJECTIONS) -> Architecture:
    """A random architecture, within the budget where there is one; see `sample_within`."""
    if plan.among:
        return random.Random(seed).choice(plan.among)
    return sample_within(plan, seed, rejections) if plan.budget else sample_architecture(plan.space, seed)


def draw_uniformly(plan: SearchPlan, trial: int, tried: Sequence[Tried], place: int | None = None) -> Architecture:
    """A random architecture, one that has not been tried where there is such; the first are those of a warm start.

    Args:
        place: how many have been drawn before; as many as there are trials where it is not given.
    """
    place = trial if place is None else place
    return plan.first[place] if place < len(plan.first) else draw_new(plan, trial, tried, partial(draw_within, plan))
