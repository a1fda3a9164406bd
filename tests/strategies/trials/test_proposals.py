"""What strategies of trials propose, on made-up scores: no training."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from nas_osr.search_spaces.architectures.canonical import fingerprint
from nas_osr.search_spaces.presets import PRESETS
from nas_osr.strategies.base import SearchPlan
from nas_osr.strategies.search_plan import plan_search
from nas_osr.strategies.search_request import SearchRequest
from nas_osr.strategies.trials.asking import Asking, lag_of, resting, tell_of_draws
from nas_osr.strategies.trials.front import front_of
from nas_osr.strategies.trials.trial import Proposal, Tried


class Records:
    """A recorder of a history alone."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def history(self) -> list[dict[str, Any]]:
        return self.records


def plan(name: str, jobs: int = 1, epochs: int = 9, seed: int = 0, **settings: Any) -> SearchPlan:
    request = SearchRequest(
        protocol="digits", preset="tiny", strategy=name, strategy_config=settings, epochs=epochs, seed=seed, jobs=jobs
    )
    return plan_search(request)


def score(proposal: Proposal) -> float:
    """More convolutions early are better, and longer training."""
    (branch,) = proposal.architecture.branches.values()
    worth = {"skip": 0.0, "conv": 1.0, "conv2": 2.0}
    good = sum(worth[name] / (place + 1) for place, name in enumerate(branch.operations))
    return (good + 0.01 * branch.path[1]) * (1 - 0.5**proposal.epochs)


def size(proposal: Proposal) -> int:
    (branch,) = proposal.architecture.branches.values()
    return sum(len(name) for name in branch.operations)


def run(search: SearchPlan, trials: int, judge: Callable[[Proposal], float] = score) -> Asking:
    """A whole search; several jobs end as late as they may."""
    recorder: Any = Records()
    asking = Asking(search.strategy, search, recorder)

    def end_one() -> None:
        trial = len(recorder.records)
        proposal = asking.asked[trial]
        scores = dict.fromkeys(("f1", "auroc", "oscr"), judge(proposal))
        found = {"trained_epochs": proposal.epochs, "parameters": size(proposal)}
        repeated = asking.repeat(trial)
        new = {"epoch": trial, **scores, **found, **proposal.architecture.describe()}
        recorder.records.append(new if repeated is None else repeated[0])

    while len(asking.asked) < trials:
        if asking.next() is None or search.jobs == 1:
            end_one()
    while asking.told() < trials:
        end_one()
    return asking


@pytest.mark.parametrize("name", ["random", "evolution", "halving", "predictor", "nsga"])
def test_equal_searches_are_equal_and_wait_for_no_more_results_than_they_may(name: str) -> None:
    one, other = (run(plan(name, jobs=3), 30) for _ in range(2))
    assert one.asked == other.asked
    assert one.lag == (6 if name in ("random", "halving") else 3)  # others would rest on too few
    assert [one.known(trial) for trial in (0, one.lag - 1, one.lag, 29)] == [0, 0, 1, 30 - one.lag]
    assert run(plan(name, jobs=3, seed=1), 30).asked != one.asked


@pytest.mark.parametrize("name", ["random", "evolution"])
def test_what_has_been_tried_is_not_drawn_again_while_there_is_something_new(name: str) -> None:
    asked = run(plan(name), 40).asked
    assert len({fingerprint(proposal.architecture) for proposal in asked}) == 40


def test_the_same_network_is_not_trained_twice() -> None:
    search = plan("random", jobs=1)
    asking = run(search, 400)  # the space has 171 different ones
    repeats = [tried.record for tried in asking.tried if "same_as" in tried.record]
    assert len(repeats) >= 400 - 171
    for record in repeats:
        first = asking.tried[record["same_as"]]
        assert "same_as" not in first.record and first.score == record["f1"]
        assert first.fingerprint == asking.tried[record["epoch"]].fingerprint


def test_evolution_mutates_the_winner_among_the_last_ones() -> None:
    asking = run(plan("evolution", population=5, tournament=5), 40)
    for trial in range(5, 40):
        alive = asking.tried[trial - 5 : trial]
        parent = max(alive, key=lambda done: done.score).architecture.branches[2]
        child = asking.tried[trial].architecture.branches[2]
        changed = sum(one != other for one, other in zip(parent.operations, child.operations, strict=True))
        assert changed + (parent.path != child.path) == 1


def test_halving_lets_the_better_part_of_a_rung_go_on_and_no_other() -> None:
    asking = run(plan("halving", factor=3), 60)
    asked, scores = asking.asked, [done.score for done in asking.tried]
    assert {proposal.epochs for proposal in asked} == {1, 3, 9}
    for trial, proposal in enumerate(asked):
        if proposal.follows is None:
            assert proposal.epochs == 1
            continue
        before = asked[proposal.follows]
        assert proposal.follows < trial and proposal.epochs == 3 * before.epochs
        assert fingerprint(before.architecture) == fingerprint(proposal.architecture)
        assert asking.root(trial) == asking.root(proposal.follows)
        rung = sorted((scores[other] for other in range(trial) if asked[other].epochs == before.epochs), reverse=True)
        assert scores[proposal.follows] >= rung[len(rung) // 3 - 1]
    assert len({proposal.follows for proposal in asked if proposal.follows is not None}) == sum(
        proposal.follows is not None for proposal in asked
    )
    # of every three of a rung one goes on, and more where better ones come later
    counts = [sum(proposal.epochs == rung for proposal in asked) for rung in (1, 3, 9)]
    assert all(many // 3 - 1 <= few < many for many, few in pairwise(counts))
    best = plan("halving").strategy.best(plan("halving"), asking.tried)  # type: ignore[attr-defined]
    assert best.record["trained_epochs"] == 9
    assert best.score == max(score for score, proposal in zip(scores, asked, strict=True) if proposal.epochs == 9)


def noisy(seed: int) -> Callable[[Proposal], float]:
    """The score of a network under noise as large as most differences."""
    return lambda proposal: score(proposal) + random.Random(f"{seed} {proposal.architecture.branches}").gauss(0, 0.5)


def test_a_predictor_proposes_better_networks_than_draws_and_takes_no_lucky_one() -> None:
    proposed, drawn, taken, luckiest = [], [], [], []
    for seed in range(6):
        search = plan("predictor", seed=seed, initial=6, candidates=100)
        asking = run(search, 16, noisy(seed))
        true = [score(proposal) for proposal in asking.asked]
        assert asking.asked[:6] == run(plan("random", seed=seed), 6, noisy(seed)).asked
        assert len({fingerprint(proposal.architecture) for proposal in asking.asked}) == 16
        drawn += true[:6]
        proposed += true[6:]
        strategy: Any = search.strategy
        taken.append(true[strategy.best(search, asking.tried).record["epoch"]])
        luckiest.append(true[max(range(16), key=lambda trial: asking.tried[trial].score)])
        # before there is a prediction the highest score is taken
        assert strategy.best(search, asking.tried[:5]) is max(asking.tried[:5], key=lambda done: done.score)
    assert sum(proposed) / len(proposed) > sum(drawn) / len(drawn) + 0.5
    assert sum(taken) > sum(luckiest)


def test_what_a_predictor_says_rests_on_the_trials_alone() -> None:
    search = plan("predictor", initial=4, candidates=20)
    asking = run(search, 12, noisy(0))
    fresh: Any = plan("predictor", initial=4, candidates=20).strategy
    for count in (12, 5, 9):  # in any order, as one that goes on asks
        asked = asking.asked[:count]
        proposal = fresh.suggest(search, asking.tried[:count], asked)
        assert proposal == search.strategy.suggest(search, asking.tried[:count], asked)  # type: ignore[attr-defined]
        assert count == 12 or proposal == asking.asked[count]


@pytest.mark.parametrize(
    ("name", "settings", "first"),
    [("random", {}, 0), ("halving", {"factor": 3}, 3), ("evolution", {"population": 5, "tournament": 2}, 5),
     ("nsga", {"population": 6}, 6), ("predictor", {"initial": 7}, 7)],
)  # fmt: skip
def test_it_is_said_where_all_trials_are_random(
    name: str, settings: dict[str, int], first: int, capsys: pytest.CaptureFixture[str]
) -> None:
    search = plan(name, **settings)
    assert search.strategy.random_first() == first  # type: ignore[attr-defined]
    tell_of_draws(search, first, first + 1)
    assert capsys.readouterr().err == ""
    tell_of_draws(search, first, first)
    said = f"all {first} trials are random: they rest on others after the first {first} only\n"
    assert capsys.readouterr().err == (said if first else "")


@pytest.mark.parametrize(
    ("jobs", "trials", "first", "lag", "rest"),
    [
        (1, 24, 8, 1, 16),
        (2, 24, 8, 4, 13),
        (4, 24, 8, 4, 13),  # of twice as many only 9 would
        (8, 24, 8, 8, 9),
        (8, 100, 20, 16, 65),
        (8, 8, 0, 16, 0),  # nothing rests on others: no job has to wait
    ],
)
def test_how_far_jobs_look_ahead(jobs: int, trials: int, first: int, lag: int, rest: int) -> None:
    assert lag_of(jobs, trials, first) == lag
    assert resting(trials, first, lag) == rest


def test_it_is_said_where_jobs_leave_little_to_rest_on(capsys: pytest.CaptureFixture[str]) -> None:
    search = plan("evolution", 8, population=8)
    tell_of_draws(search, 8, 24, 8)
    assert capsys.readouterr().err == (
        "9 of 24 trials rest on others with 8 jobs: fewer jobs, or more trials, let more of them do so\n"
    )
    tell_of_draws(search, 8, 15, 8)
    assert (
        "all 15 trials are random: they rest on others after the first 15 only with 8 jobs" in capsys.readouterr().err
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_halving_trains_one_to_the_end_at_every_preset(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    search = plan_search(SearchRequest(protocol="digits", preset=preset, strategy="halving", threads=1, device="cpu"))
    strategy: Any = search.strategy
    rungs = len(strategy.rungs(search))
    assert strategy.reached(rungs, strategy.lag(search)) == rungs - 1
    strategy.tell_of_plan(search)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("trials", "jobs"), [(1, 1), (12, 1), (13, 1), (20, 1), (12, 2), (18, 2), (24, 4), (30, 8)])
def test_the_rung_that_is_said_to_be_reached_is(trials: int, jobs: int, capsys: pytest.CaptureFixture[str]) -> None:
    search = plan("halving", jobs, trials=trials)
    strategy: Any = search.strategy
    worse = iter(range(trials, 0, -1))
    longest = max(proposal.epochs for proposal in run(search, trials, lambda proposal: float(next(worse))).asked)
    assert longest == strategy.rungs(search)[strategy.reached(3, strategy.lag(search))]
    capsys.readouterr()
    strategy.tell_of_plan(search)
    assert ("may be too few for the last rung" in capsys.readouterr().err) == (longest < 9)


def non_dominated(strategy: Any, tried: list[Tried]) -> list[set[int]]:
    """The fronts of Deb et al., one below the other, by their definition."""
    left, fronts = set(range(len(tried))), []
    while left:
        front = {one for one in left if not any(strategy.dominates(tried[other], tried[one]) for other in left)}
        fronts.append(front)
        left -= front
    return fronts


def test_nsga_keeps_the_first_fronts_and_leaves_the_front() -> None:
    search = plan("nsga", population=6)
    strategy: Any = search.strategy
    tried = run(search, 30).tried
    survivors = {*range(6)}
    assert strategy.survivors(tried[:5]) == []
    for generation in range(1, 6):
        kept = {*strategy.survivors(tried[: 6 * generation])}
        assert len(kept) == 6
        if generation > 1:
            pool = sorted(survivors | {*range(6 * (generation - 1), 6 * generation)})
            fronts = non_dominated(strategy, [tried[number] for number in pool])
            better: set[int] = set()
            for front in fronts:
                numbers = {pool[place] for place in front}
                assert numbers <= kept or len(better | numbers) > 6  # a front goes on whole while there is room
                better |= numbers
                if len(better) >= 6:
                    break
            assert kept <= better
        survivors = kept
    records = [{**done.record, "phase": "trial", "trained_epochs": 1} for done in tried]
    front = [(record["f1"], float(record["parameters"])) for record in front_of(records, "f1", "parameters")]
    whole = {strategy.objectives(tried[number]) for number in non_dominated(strategy, tried)[0]}
    assert {*front} == whole and len(front) == len(whole)
    assert [size for _, size in front] == sorted(size for _, size in whole)
    # another strategy that has seen nothing proposes the same
    assert plan("nsga", population=6).strategy.survivors(tried) == strategy.survivors(tried)  # type: ignore[attr-defined]


def test_the_plan_of_a_search_is_not_another_strategys() -> None:
    """Searching on made-up scores finds better architectures than drawing as many."""
    best = {name: max(run(plan(name), 40).tried, key=lambda done: done.score).score for name in ("random", "evolution")}
    assert best["evolution"] >= best["random"]
    assert replace(plan("random"), seed=3).strategy.criterion == "f1"
