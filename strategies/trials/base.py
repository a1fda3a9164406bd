"""Strategies that try architectures: each is trained shortly and judged, and the best F1 wins.

A subclass says which architecture is tried next, by `propose` alone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
from lightning_fabric import Fabric
from torch import Tensor

from nas_osr.configuration import Checked
from nas_osr.cost.steps import random_outliers
from nas_osr.cost.whole_run import Cost, random_step
from nas_osr.option_docs import POSITIVE
from nas_osr.plans import LearningData
from nas_osr.ranks.first import FirstRank
from nas_osr.runs.recorder import Recorder
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.network import DiscreteNetwork
from nas_osr.seeds import derive_seed
from nas_osr.strategies.base import SearchPlan, SearchResult, Strategy
from nas_osr.strategies.pseudo_unknown import SearchData, count_search_images, pseudo_open_set_scores
from nas_osr.training.epochs import Schedule, Trainer, run_epochs
from nas_osr.training.learner import Learner
from nas_osr.training.monitors import explosion_warnings


@dataclass(frozen=True)
class TrialsConfig(Checked):
    """Options of strategies that try architectures. `--epochs` is what each is trained for."""

    trials: Annotated[int, POSITIVE] = 8
    "how many architectures are tried."


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
        outliers = random_outliers(plan.protocol.image_shape)
        learner, optimizers, schedule = build_trial(self.propose(plan, 0, []), plan, outliers, fabric, plan.seed)
        learner.train()
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
        tried = []
        for record in recorder.history():
            tried.append(Tried(Architecture.from_description(plan.space, record), record["f1"], record))
        return tried


class Trial(Trainer):
    """The training of one architecture; nothing is scored before its end."""

    def phase(self, epoch: int) -> str:
        return "trial"

    def judge(self, record: Mapping[str, Any], norms: Mapping[str, float], history: Sequence[Any]) -> dict[str, Any]:
        """Whether the training explodes."""
        warnings = explosion_warnings(record["losses"], norms, history)
        return {"monitors": {"gradient_norm": dict(norms), "warnings": warnings}}


class TrialRecorder:
    """A `Recorder` for the epochs of one trial: they go into the search's checkpoints, and not into its history.

    Args:
        recorder: the search's.
        trial: its number.
        state: what an interrupted trial has saved; None where it begins.
    """

    def __init__(self, recorder: Recorder, trial: int, state: Mapping[str, Any] | None) -> None:
        self.recorder, self.trial = recorder, trial
        state = state or {"records": [], "timings": [], "training": None}
        self.records, self.timings, self._training = list(state["records"]), list(state["timings"]), state["training"]

    def record(self, record: dict[str, Any], timing: dict[str, Any]) -> None:
        self.records.append(record)
        self.timings.append(timing)

    def wants_checkpoint(self) -> bool:
        return self.recorder.wants_checkpoint()

    def save(self, state: dict[str, Any], needed: bool = True) -> None:
        inside = {"records": self.records, "timings": self.timings, "training": state}
        self.recorder.save({"epoch": self.trial - 1, "trial": inside}, needed)

    def restore(self) -> dict[str, Any] | None:
        return self._training

    def history(self) -> list[dict[str, Any]]:
        return self.records


def build_trial(
    architecture: Architecture, plan: SearchPlan, outliers: Tensor, fabric: Fabric, seed: int
) -> tuple[Any, dict[str, Any], Schedule]:
    """The network and heads of an architecture with fresh weights, ready to be trained; see `SchedulePlan.set_up`."""
    if architecture.space != plan.space:
        raise ValueError(f"an architecture of another space was proposed: {architecture.space}")
    network = plan.make_encoder(DiscreteNetwork, architecture)
    learner = Learner(network, plan.make_heads(network, outliers)).to(memory_format=torch.channels_last)
    plan.machine.prepare(network)
    return plan.weights.set_up(learner, fabric, plan.protocol, seed)


def run_trial(
    architecture: Architecture,
    plan: SearchPlan,
    split: SearchData,
    outliers: Tensor,
    fabric: Fabric,
    recorder: TrialRecorder,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train and judge an architecture; the record of the trial and its timing.

    Args:
        split: on the device.
    """
    seed = derive_seed(plan.seed, "trial", recorder.trial)
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, "weights"))
        learner, optimizers, schedule = build_trial(architecture, plan, outliers, fabric, seed)
        run_epochs(Trial(fabric, learner, optimizers, split.training(), schedule, plan.machine.graphs), recorder)
    trained = time.perf_counter()
    learner.eval()
    rule = plan.objective.make_rule()
    scores = FirstRank(fabric, learner).call(lambda own: pseudo_open_set_scores(own.infer, own.objective, rule, split))
    last, timings = recorder.records[-1], recorder.timings
    record = {
        "epoch": recorder.trial,
        "phase": "trial",
        "losses": last["losses"],
        "monitors": last["monitors"],
        **scores,
        **architecture.describe(),
        "parameters": sum(parameter.numel() for parameter in learner.encoder.parameters()),
    }
    timing = {
        "epoch": recorder.trial,
        "seconds": sum(epoch["seconds"] for epoch in timings) + time.perf_counter() - trained,
        "training_seconds": sum(epoch["training_seconds"] for epoch in timings),
        "images": sum(epoch["images"] for epoch in timings),
        "ranks": fabric.world_size,
    }
    return record, timing
