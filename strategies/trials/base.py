"""Strategies that try architectures: each is trained shortly and judged, and the best score wins.

A subclass says which architecture is tried next, by `propose` alone.

Several can be tried at a time (`--jobs`). A proposal then rests on the trials up to a fixed number before it, whichever
has ended by then, so that equal searches are equal, however fast their trials are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from lightning_fabric import Fabric

from nas_osr.configuration import Checked
from nas_osr.cost.steps import random_outliers
from nas_osr.cost.whole_run import Cost, random_step
from nas_osr.errors import UserError
from nas_osr.option_docs import POSITIVE
from nas_osr.plans import LearningData
from nas_osr.ranks.first import FirstRank
from nas_osr.runs.names import TRIALS_FOLDER
from nas_osr.runs.recorder import Recorder
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.space import Space
from nas_osr.strategies.base import SearchPlan, SearchResult, Strategy
from nas_osr.strategies.pseudo_unknown import Classes, count_search_images
from nas_osr.strategies.search_request import Criterion
from nas_osr.strategies.trials.asking import Asking, lag_of, tell_of_draws
from nas_osr.strategies.trials.in_turn import try_here
from nas_osr.strategies.trials.pool import try_in_processes
from nas_osr.strategies.trials.study import Direction, TrialStudy
from nas_osr.strategies.trials.trial import Proposal, TrialRunner, TrialStates, Tried, build_trial
from nas_osr.strategies.trials.warm_start import first_trials


@dataclass(frozen=True)
class TrialsConfig(Checked):
    """Options of strategies that try architectures. `--epochs` is what each is trained for."""

    trials: Annotated[int, POSITIVE] = 8
    "how many architectures are tried."
    rotations: Annotated[int, POSITIVE] = 1
    "how often each is trained, with other known classes playing the unknown; the mean counts."
    criterion: Criterion = "f1"
    "which score picks: f1 (the paper's), auroc or oscr of pseudo-unknown classes."
    warm_start: Literal["none", "parameters", "macs", "synflow", "naswot", "zico"] = "none"
    "by which zero-cost score the first trials are the best of many draws; none takes the first draws."
    warm_draws: Annotated[int, POSITIVE] = 200
    "how many untrained networks a warm start scores."
    warm_trials: Annotated[int, POSITIVE] = 8
    "how many of them are tried; of a population the rest is drawn, as without one."


class Trials(Strategy):
    """A strategy that tries architectures.

    Attributes:
        continues: whether a proposal may follow a former one, whose training is kept for that.
        draws: whether every architecture that it proposes comes from `draw_within`, so that a list of random ones does.
    """

    Config = TrialsConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"tiny": {"trials": 4}}
    epochs: ClassVar[Mapping[str, int]] = {"paper": 10, "small": 4, "tiny": 3}
    tries = True
    continues: ClassVar[bool] = False
    draws: ClassVar[bool] = False

    # What differs between strategies ------------------------------------------------------------------------------

    def propose(self, plan: SearchPlan, trial: int, tried: Sequence[Tried]) -> Architecture:
        """The next architecture to try, of the space `plan.space`.

        It depends on its arguments alone, so that an interrupted search goes on as it would have.

        Args:
            trial: counts from 0.
            tried: the first trials, in order: all before this one, or with several jobs those that it may rest on.
        """
        raise NotImplementedError

    def suggest(self, plan: SearchPlan, tried: Sequence[Tried], asked: Sequence[Proposal]) -> Proposal:
        """The next proposal after those of `asked`; as `propose`, for one that also says how long each is trained."""
        return Proposal(self.propose(plan, len(asked), tried), plan.weights.epochs)

    def best(self, plan: SearchPlan, tried: Sequence[Tried]) -> Tried:
        """The best, on ties the earlier, of at least one."""
        return max(tried, key=lambda done: done.score)

    def random_first(self) -> int:
        """How many random trials it takes for others to rest on them; 0 where none rest on others."""
        return 0

    def lag(self, plan: SearchPlan) -> int:
        """How many trials a proposal lies after the last one that it may rest on; see `lag_of`."""
        return lag_of(plan.jobs, self.config.trials, self.random_first())

    def tell_of_plan(self, plan: SearchPlan) -> None:
        """A line on what so many trials cannot do, if there is such a thing."""
        tell_of_draws(plan, self.random_first(), self.config.trials, self.lag(plan))

    def directions(self) -> tuple[Direction, ...]:
        """What is to become of each of the `objectives`, as Optuna says it."""
        return ("maximize",)

    def objectives(self, done: Tried) -> tuple[float, ...]:
        """What is looked at of a trial."""
        return (done.score,)

    def conclude(self, plan: SearchPlan, tried: Sequence[Tried], recorder: Recorder) -> None:
        """Leave what else has been found."""

    # What they share ----------------------------------------------------------------------------------------------

    def check_plan(self, plan: SearchPlan) -> None:
        """UserError when there are not so many rotations."""
        self.rotations(plan)

    def rotations(self, plan: SearchPlan) -> tuple[Classes, ...]:
        """Which known classes play the unknown, in turn."""
        return plan.classes.rotate(self.config.rotations, plan.seed) if self.config.rotations > 1 else (plan.classes,)

    def records(self, plan: SearchPlan) -> int:
        """One a trial."""
        return self.config.trials  # type: ignore[no-any-return]

    def trained_epochs(self, plan: SearchPlan) -> float:
        """How many epochs all trials take together."""
        return float(self.config.trials * plan.weights.epochs)

    def cost(self, plan: SearchPlan, fabric: Fabric) -> Cost:
        """That of the first architecture, as often as there are trials."""
        trials, times = self.config.trials, self.config.rotations
        images = count_search_images(plan.data.count_known(), plan.classes, plan.rule_sample)
        first = self.suggest(plan, [], []).architecture
        return replace(
            trial_cost(plan, first, self.trained_epochs(plan) * times, fabric),
            scored=images.judged * trials * times,
            resident=(2 * images.training + images.judged) * times,
            about={"trials": trials, "epochs": plan.weights.epochs, "training_images": images.training},
        )

    def search(self, plan: SearchPlan, data: LearningData, fabric: Fabric, recorder: Recorder) -> SearchResult:
        if fabric.world_size > 1 and (not plan.in_turn or self.continues):
            raise UserError(
                "several processes train one network here: start one process, with --jobs for several trials"
            )
        if fabric.is_global_zero:
            self.tell_of_plan(plan)
        # restore: which trials are done, and how far the one had come that was interrupted
        state = recorder.restore() or {"epoch": -1}
        folder = recorder.folder()
        warm = FirstRank(fabric, folder).call(lambda path: first_trials(plan, data, fabric.device, path))
        plan = replace(plan, first=warm)
        states = TrialStates(folder / TRIALS_FOLDER) if self.continues and folder is not None else None
        runner = TrialRunner(plan, self.rotations(plan), data, fabric, states)
        study = TrialStudy(folder, plan, self.directions())

        def keep(record: dict[str, Any], timing: dict[str, Any]) -> None:
            recorder.record(record, timing)
            study.tell(self.read_trial(plan.space, record), self.objectives)
            recorder.save({"epoch": record["epoch"]})

        for record in recorder.history():
            study.tell(self.read_trial(plan.space, record), self.objectives)
        asking = Asking(self, plan, recorder)
        if plan.in_turn:
            try_here(asking, runner, recorder, keep, state.get("trial"))
        else:
            try_in_processes(asking, runner, recorder, keep)
        tried = self.tried(plan, recorder)
        self.conclude(plan, tried, recorder)
        if states is not None:
            states.drop(range(len(tried)))
        best = self.best(plan, tried)
        return SearchResult(best.architecture, None, best.score, best.record["epoch"])

    def tried(self, plan: SearchPlan, recorder: Recorder) -> list[Tried]:
        """The trials that have been recorded."""
        return [self.read_trial(plan.space, record) for record in recorder.history()]

    def read_trial(self, space: Space, record: Mapping[str, Any]) -> Tried:
        """A trial from its record."""
        return Tried(Architecture.from_description(space, record), record[self.criterion], record)


def trial_cost(plan: SearchPlan, architecture: Architecture, epochs: float, fabric: Fabric) -> Cost:
    """Trainings of an architecture that take so many epochs together; what judges them is not counted."""
    outliers = random_outliers(plan.protocol.image_shape)
    learner, optimizers, schedule = build_trial(architecture, plan, outliers, fabric, plan.seed)
    learner.train()
    images = count_search_images(plan.data.count_known(), plan.classes, plan.rule_sample)
    batch_size = plan.weights.batch_size
    return Cost(
        learner=learner,
        optimizers=list(optimizers.values()),
        steps={"weights": partial(random_step, "weights", fabric, learner, optimizers, schedule)},
        batch_size=batch_size,
        protocol=plan.protocol,
        counts={"weights": round(max(1, images.training // batch_size) * epochs)},
    )
