"""One trial: an architecture is built, trained shortly on the kept classes, and judged."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from nas_osr.ranks.first import FirstRank
from nas_osr.runs.recorder import Recorder
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.network import DiscreteNetwork
from nas_osr.seeds import derive_seed
from nas_osr.strategies.base import SearchPlan
from nas_osr.strategies.pseudo_unknown import SearchData, pseudo_open_set_scores
from nas_osr.training.epochs import Trainer, run_epochs
from nas_osr.training.learner import Learner, make_optimizers, set_up
from nas_osr.training.monitors import explosion_warnings


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

    def save(self, state: dict[str, Any]) -> None:
        inside = {"records": self.records, "timings": self.timings, "training": state}
        self.recorder.save({"epoch": self.trial - 1, "trial": inside})

    def restore(self) -> dict[str, Any] | None:
        return self._training

    def history(self) -> list[dict[str, Any]]:
        return self.records


def build_trial(
    architecture: Architecture, plan: SearchPlan, outliers: Tensor, fabric: Fabric
) -> tuple[Any, dict[str, Any]]:
    """The network and heads of an architecture with fresh weights, and their optimisers, as Fabric wraps them."""
    if architecture.space != plan.space:
        raise ValueError(f"an architecture of another space was proposed: {architecture.space}")
    network = plan.make_encoder(DiscreteNetwork, architecture)
    learner = Learner(network, plan.make_heads(network, outliers)).to(memory_format=torch.channels_last)
    plan.machine.prepare(network)
    return set_up(fabric, learner, make_optimizers(learner, list(network.parameters()), plan.weights.make_optimizer))


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
        learner, optimizers = build_trial(architecture, plan, outliers, fabric)
        schedule = plan.weights.schedule(learner.objective, plan.protocol, seed)
        run_epochs(Trial(fabric, learner, optimizers, split.training(), schedule), recorder)
    trained = time.perf_counter()
    learner.eval()
    rule = plan.objective.make_rule()
    scores = FirstRank(fabric, learner).call(lambda own: pseudo_open_set_scores(own, rule, split))
    last, timings = recorder.records[-1], recorder.timings
    record = {
        "epoch": recorder.trial,
        "phase": "trial",
        "losses": last["losses"],
        "monitors": last["monitors"],
        **scores,
        "branches": architecture.to_dict()["branches"],
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
