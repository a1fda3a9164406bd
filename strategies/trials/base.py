"""Strategies that try architectures: each is trained shortly and judged, and the best F1 wins.

A subclass says which architecture is tried next, by `propose` alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from lightning_fabric import Fabric

from nas_osr.configuration import check_positive
from nas_osr.cost.steps import OUTLIERS, random_images
from nas_osr.cost.whole_run import Cost, random_step
from nas_osr.plans import LearningData
from nas_osr.runs.recorder import Recorder
from nas_osr.search_spaces.architectures.architecture import Architecture, Branch
from nas_osr.strategies.base import SearchPlan, SearchResult, Strategy
from nas_osr.strategies.pseudo_unknown import count_search_images
from nas_osr.strategies.trials.trial import TrialRecorder, build_trial, run_trial


@dataclass(frozen=True)
class TrialsConfig:
    """Options of strategies that try architectures. `--epochs` is what each is trained for."""

    trials: int = 8
    "how many architectures are tried."

    def __post_init__(self) -> None:
        check_positive(self, "trials")


@dataclass(frozen=True)
class Tried:
    """An architecture that has been tried, and how it did; `record` is what the history holds of it."""

    architecture: Architecture
    f1: float
    record: Mapping[str, Any]


class Trials(Strategy):
    """A strategy that tries one architecture after the other."""

    Config = TrialsConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"tiny": {"trials": 4}}
    epochs: ClassVar[Mapping[str, int]] = {"paper": 10, "small": 4, "tiny": 3}

    def propose(self, plan: SearchPlan, trial: int, tried: Sequence[Tried]) -> Architecture:
        """The next architecture to try, of the space `plan.space`.

        It depends on its arguments alone, so that an interrupted search goes on as it would have.

        Args:
            trial: counts from 0.
            tried: the trials before, in order.
        """
        raise NotImplementedError

    def records(self, plan: SearchPlan) -> int:
        """One a trial."""
        return self.config.trials  # type: ignore[no-any-return]

    def cost(self, plan: SearchPlan, fabric: Fabric) -> Cost:
        """That of the first architecture, as often as there are trials."""
        outliers = random_images(OUTLIERS, plan.protocol.image_shape, torch.device("cpu"))
        learner, optimizers = build_trial(self.propose(plan, 0, []), plan, outliers, fabric)
        learner.train()
        schedule = plan.weights.schedule(learner.objective, plan.protocol, plan.seed)
        images = count_search_images(plan.data.count_known(), plan.classes, plan.rule_sample)
        trials, epochs, batch_size = self.config.trials, plan.weights.epochs, plan.weights.batch_size
        return Cost(
            learner=learner,
            optimizers=list(optimizers.values()),
            steps={"weights": partial(random_step, "weights", fabric, learner, optimizers, schedule)},
            batch_size=batch_size,
            protocol=plan.protocol,
            counts={"weights": max(1, images.training // batch_size) * epochs * trials},
            scored=images.judged * trials,
            resident=2 * images.training + images.judged,
            about={"trials": trials, "epochs": epochs, "training_images": images.training},
        )

    def search(self, plan: SearchPlan, data: LearningData, fabric: Fabric, recorder: Recorder) -> SearchResult:
        split = plan.divide(data).to(fabric.device)
        # restore: which trials are done, and how far the one had come that was interrupted
        state = recorder.restore() or {"epoch": -1}
        inside = state.get("trial")
        for trial in range(state["epoch"] + 1, self.config.trials):
            # propose
            architecture = self.propose(plan, trial, self.tried(plan, recorder))
            # train shortly, on all kept training images, and judge as an epoch of a bilevel search is judged
            progress, inside = TrialRecorder(recorder, trial, inside), None
            record, timing = run_trial(architecture, plan, split, data.outliers, fabric, progress)
            # record
            recorder.record(record, timing)
            # save
            recorder.save({"epoch": trial})
        # the best F1 wins, on ties the earlier
        best = max(self.tried(plan, recorder), key=lambda done: done.f1)
        return SearchResult(best.architecture, None, best.f1, best.record["epoch"])

    def tried(self, plan: SearchPlan, recorder: Recorder) -> list[Tried]:
        """The trials that have been recorded."""
        return [
            Tried(Architecture(plan.space, read_branches(record["branches"])), record["f1"], record)
            for record in recorder.history()
        ]


def read_branches(branches: Mapping[str, Mapping[str, Any]]) -> dict[int, Branch]:
    """Branches as a history record has them."""
    return {
        int(scale): Branch(tuple(branch["path"]), tuple(branch["operations"])) for scale, branch in branches.items()
    }
