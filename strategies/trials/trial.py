"""One trial: an architecture is trained with fresh weights and judged, once for each rotation of the classes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from nas_osr.cost.estimate import count_macs
from nas_osr.files.storage import file_errors, replace_file
from nas_osr.plans import LearningData
from nas_osr.ranks.first import FirstRank
from nas_osr.runs.checkpoints import read_checkpoint
from nas_osr.runs.recorder import Recorder
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.architectures.canonical import fingerprint
from nas_osr.search_spaces.budgets import Budget, network_sizes
from nas_osr.search_spaces.network import DiscreteNetwork
from nas_osr.seeds import derive_seed
from nas_osr.strategies.base import SearchPlan
from nas_osr.strategies.pseudo_unknown import Classes, SearchData, pseudo_open_set_scores
from nas_osr.training.epochs import Schedule, Trainer, run_epochs
from nas_osr.training.learner import Learner
from nas_osr.training.monitors import explosion_warnings

SCORES = ("f1", "auroc", "oscr", "accuracy", "threshold")  # of a trial: the means over its rotations


@dataclass(frozen=True)
class Proposal:
    """What is to be tried."""

    architecture: Architecture
    "it."
    epochs: int
    "for which it has been trained afterwards."
    follows: int | None = None
    "the trial whose training goes on; None begins a new one."


@dataclass(frozen=True)
class Tried:
    """An architecture that has been tried, and how it did; `record` is what the history holds of it."""

    architecture: Architecture
    "it."
    score: float
    "by the criterion of the search; larger is better."
    record: Mapping[str, Any]
    "see docs/reference/run-folder.md."

    @property
    def f1(self) -> float:
        """Its F1, whichever score picks."""
        return self.record["f1"]  # type: ignore[no-any-return]

    @cached_property
    def fingerprint(self) -> str:
        """Equal for architectures that compute the same."""
        return fingerprint(self.architecture)


class TrialTraining(Trainer):
    """The training of one architecture, up to an epoch; nothing is scored before that."""

    until: int

    def phase(self, epoch: int) -> str:
        return "trial"

    def judge(self, record: Mapping[str, Any], norms: Mapping[str, float], history: Sequence[Any]) -> dict[str, Any]:
        """Whether the training explodes."""
        warnings = explosion_warnings(record["losses"], norms, history)
        return {"monitors": {"gradient_norm": dict(norms), "warnings": warnings}}

    def stopped(self, history: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the epoch has been reached: the schedule may be a longer one."""
        return len(history) >= self.until


class TrialRecorder:
    """A `Recorder` for the epochs of one trial: they go into the search's checkpoints, and not into its history.

    Args:
        recorder: the search's; None where a trial that is interrupted begins anew.
        trial: its number.
        state: what an interrupted trial has saved; None where it begins.
        former: for each rotation what `training` was at the end of the training that goes on; none where none does.

    Attributes:
        parts: what has been measured in the rotations that are done.
        ends: for each of them, what `former` is to be when this training goes on.
    """

    def __init__(
        self,
        recorder: Recorder | None,
        trial: int,
        state: Mapping[str, Any] | None = None,
        former: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.recorder, self.trial, self.former = recorder, trial, former
        state = state or {"records": None, "timings": [], "training": None}
        self.parts, self.ends = list(state.get("parts", [])), list(state.get("ends", []))
        self.timings = list(state["timings"])
        self.records, self._training = state["records"], state["training"]
        if self.records is None:
            self.begin()

    def begin(self) -> None:
        """Turn to the next rotation."""
        begun = self.former[len(self.parts)] if len(self.parts) < len(self.former) else None
        self.records = [] if begun is None else list(begun["records"])
        self._training = None if begun is None else begun["training"]

    def end(self, part: Mapping[str, Any], keep: bool) -> None:
        """The rotation is done; `keep` is whether its training may go on later."""
        self.parts.append(dict(part))
        self.ends.append({"records": self.records, "training": self._training} if keep else {})
        self.begin()

    def record(self, record: dict[str, Any], timing: dict[str, Any]) -> None:
        self.records.append(record)
        self.timings.append(timing)

    def step(self, done: int, steps: int) -> None:
        """Show nothing: what is shown of a search is its trials."""

    def wants_checkpoint(self) -> bool:
        return self.recorder is not None and self.recorder.wants_checkpoint()

    def save(self, state: dict[str, Any], needed: bool = True) -> None:
        self._training = state
        if self.recorder is not None:
            inside = {"records": self.records, "timings": self.timings, "training": state}
            rotations = {"parts": self.parts, "ends": self.ends} if self.parts else {}
            self.recorder.save({"epoch": self.trial - 1, "trial": {**inside, **rotations}}, needed)

    def restore(self) -> dict[str, Any] | None:
        return self._training

    def history(self) -> list[dict[str, Any]]:
        return self.records

    def folder(self) -> None:
        return None


@dataclass(frozen=True)
class TrialStates:
    """What trainings were at their ends, in files of a folder, so that they can go on."""

    folder: Path

    def path(self, trial: int) -> Path:
        """Of a trial's file."""
        return self.folder / f"trial-{trial}.pt"

    def save(self, trial: int, ends: Sequence[Mapping[str, Any]]) -> None:
        """Keep a trial's `TrialRecorder.ends`. Raises UserError when the disk refuses."""
        with file_errors(self.folder, "create"):
            self.folder.mkdir(exist_ok=True)
        with replace_file(self.path(trial)) as file:
            torch.save({"ends": list(ends)}, file)

    def load(self, trial: int | None) -> list[Mapping[str, Any]]:
        """The same again; none of None. Raises UserError: the file is missing or damaged."""
        return [] if trial is None else read_checkpoint(self.path(trial))["ends"]

    def drop(self, trials: Sequence[int]) -> None:
        """Remove those of trials that go on no more, and the folder with the last."""
        with file_errors(self.folder, "clear"):
            for trial in trials:
                self.path(trial).unlink(missing_ok=True)
            if self.folder.is_dir() and not any(self.folder.iterdir()):
                self.folder.rmdir()


@dataclass
class TrialRunner:
    """Trains and judges architectures."""

    plan: SearchPlan
    "of the search."
    rotations: Sequence[Classes]
    "which known classes play the unknown, in turn."
    data: LearningData
    "the images."
    fabric: Fabric
    "where."
    states: TrialStates | None
    "where what may go on is kept; None where nothing goes on."

    @cached_property
    def plans(self) -> list[SearchPlan]:
        """For each rotation."""
        return [replace(self.plan, classes=classes) for classes in self.rotations]

    @cached_property
    def splits(self) -> list[SearchData]:
        """For each rotation, on the device."""
        return [plan.divide(self.data).to(self.fabric.device) for plan in self.plans]

    def run(self, proposal: Proposal, root: int, recorder: TrialRecorder) -> tuple[dict[str, Any], dict[str, Any]]:
        """The record of a trial and its timing.

        Args:
            root: the trial in which its training began, whose seed it has.
        """
        for rotation in range(len(recorder.parts), len(self.plans)):
            recorder.end(self.run_part(proposal, root, rotation, recorder), keep=self.states is not None)
        if self.states is not None:
            self.states.save(recorder.trial, recorder.ends)
        return describe_trial(recorder, proposal, self)

    def run_part(self, proposal: Proposal, root: int, rotation: int, recorder: TrialRecorder) -> dict[str, Any]:
        """Train and judge with the classes of one rotation; what is measured."""
        plan, split, fabric = self.plans[rotation], self.splits[rotation], self.fabric
        seed = derive_seed(plan.seed, "trial", root, *(("rotation", rotation) if rotation else ()))
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(seed, "weights"))
            built = build_trial(proposal.architecture, plan, self.data.outliers, fabric, seed)
            learner, optimizers, schedule = built
            training = TrialTraining(fabric, learner, optimizers, split.training(), schedule, plan.machine.graphs)
            training.until = proposal.epochs
            run_epochs(training, recorder)
        trained = time.perf_counter()
        learner.eval()
        rule = plan.objective.make_rule()
        scores = FirstRank(fabric, learner).call(
            lambda own: pseudo_open_set_scores(own.infer, own.objective, rule, split)
        )
        last = recorder.records[-1]
        return {
            **{name: last[name] for name in ("losses", "monitors")},
            **scores,
            "parameters": sum(parameter.numel() for parameter in learner.encoder.parameters()),
            "macs": count_macs(learner, plan.protocol.image_shape),
            "seconds": time.perf_counter() - trained,
        }


def describe_trial(
    recorder: TrialRecorder, proposal: Proposal, runner: TrialRunner
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The record of a trial whose rotations are all done, and its timing."""
    parts, names = recorder.parts, runner.plan.protocol.class_names
    last = parts[-1]
    record = {
        "epoch": recorder.trial,
        "phase": "trial",
        "losses": last["losses"],
        "monitors": last["monitors"],
        **{name: mean_score([part[name] for part in parts]) for name in SCORES},
        **proposal.architecture.describe(),
        **{name: last[name] for name in ("parameters", "macs")},
        **describe_needs(proposal.architecture, runner.plan.budget),
    }
    if len(parts) > 1:
        record["rotations"] = [
            {**{name: part[name] for name in SCORES}, "pseudo_unknown": [names[label] for label in classes.pseudo]}
            for part, classes in zip(parts, runner.rotations, strict=True)
        ]
    if runner.states is not None:
        record |= {"trained_epochs": proposal.epochs, "follows": proposal.follows}
    timings = recorder.timings
    timing = {
        "epoch": recorder.trial,
        "seconds": sum(epoch["seconds"] for epoch in timings) + sum(part["seconds"] for part in parts),
        "training_seconds": sum(epoch["training_seconds"] for epoch in timings),
        "images": sum(epoch["images"] for epoch in timings),
        "ranks": runner.fabric.world_size,
    }
    return record, timing


def describe_needs(architecture: Architecture, budget: Budget) -> dict[str, float]:
    """Bytes that its network needs at prediction, and milliseconds an image where there is a table of latencies."""
    sizes, table = network_sizes(architecture, budget.image_shape, budget.table), budget.table
    latency = {} if table is None else {"latency": table.milliseconds(sizes.nanoseconds)}
    return {"memory": sizes.memory, **latency}


def mean_score(values: Sequence[float | None]) -> float | None:
    """Of numbers; None where one is not defined."""
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if len(numbers) == len(values) else None


def build_trial(
    architecture: Architecture, plan: SearchPlan, outliers: Tensor, fabric: Fabric, seed: int
) -> tuple[Any, dict[str, Any], Schedule]:
    """The network and heads of an architecture with fresh weights, ready to be trained; see `SchedulePlan.set_up`."""
    if architecture.space != plan.space:
        raise ValueError(f"an architecture of another space was proposed: {architecture.space}")
    network = plan.make_encoder(DiscreteNetwork, architecture)
    learner = Learner(network, plan.make_heads(network, outliers)).to(memory_format=torch.channels_last)
    learner.mirrored = plan.weights.recipe.mirrored and plan.protocol.mirrors
    plan.machine.prepare(network)
    return plan.weights.set_up(learner, fabric, plan.protocol, seed)
