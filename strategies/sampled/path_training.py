"""The training of a supernet path by path, and how a path does with the weights that it inherits."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from nas_osr.cost.estimate import count_macs
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.supernet import Supernet, build_supernet
from nas_osr.seeds import derive_seed
from nas_osr.strategies.base import SearchPlan
from nas_osr.strategies.inherited import inheriting
from nas_osr.strategies.pseudo_unknown import SearchData, pseudo_open_set_scores
from nas_osr.strategies.sampled.drawn_paths import draw_paths, path_step
from nas_osr.strategies.trials.asking import draw_within
from nas_osr.training.epochs import Batch, Schedule, Trainer
from nas_osr.training.fabric import computed_as_trained
from nas_osr.training.learner import Learner, make_optimizers, set_up
from nas_osr.training.monitors import explosion_warnings


class PathTraining(Trainer):
    """The epochs of a supernet of which one path learns in a step, or under fair drawing several."""

    split: SearchData
    plan: SearchPlan

    @classmethod
    def begin(cls, plan: SearchPlan, split: SearchData, outliers: Tensor, fabric: Fabric) -> PathTraining:
        """With fresh weights, from torch's global generator. Raises UserError when the heads cannot be made."""
        learner, optimizers, schedule = build_paths(plan, outliers, fabric)
        training = cls(fabric, learner, optimizers, split.training(), schedule)
        training.split, training.plan = split, plan
        return training

    def phase(self, epoch: int) -> str:
        return "supernet"

    def step(self, batches: tuple[Batch, ...], progress: float) -> Iterator[dict[str, Tensor]]:
        # the seed comes from the generator that an interrupted epoch goes on with
        seed = int(torch.randint(2**62, ()))
        paths = draw_paths(self.plan, self.plan.strategy.config.paths, seed)
        images, labels = self.input(*batches[0])
        clip, scale = self.schedule.clip, self.schedule.scale
        yield path_step(self.fabric, self.learner, self.optimizers, paths, images, labels, progress, clip, scale)

    def judge(self, record: Mapping[str, Any], norms: Mapping[str, float], history: Sequence[Any]) -> dict[str, Any]:
        """How a random path does with what it inherits by now."""
        shown = draw_within(self.plan, derive_seed(self.plan.seed, "shown", record["epoch"]))
        warnings = explosion_warnings(record["losses"], norms, history)
        monitors = {"monitors": {"gradient_norm": dict(norms), "warnings": warnings}}
        return {**self.scores(shown)[0], **shown.describe(), **monitors}

    def scores(self, architecture: Architecture) -> tuple[dict[str, Any], float]:
        """Of a path with the weights that it inherits, as of any network; and the seconds that BatchNorm took of it."""
        network, taken = self.inherit(architecture)
        return self.score_network(network), taken

    def trial(self, architecture: Architecture) -> tuple[dict[str, Any], float]:
        """The same with the size of the network, counted as other trials count it."""
        network, taken = self.inherit(architecture)
        parameters = sum(parameter.numel() for parameter in network.encoder.parameters())
        macs = count_macs(network, self.plan.protocol.image_shape)
        return {**self.score_network(network), "parameters": parameters, "macs": macs}, taken

    def inherit(self, architecture: Architecture) -> tuple[Learner, float]:
        """The network of a path with the weights that it inherits, and the seconds that BatchNorm took of it."""
        started = time.perf_counter()
        encoder = inheriting(self.learner.module.encoder, architecture, self.plan, self.fabric, self.split.fit_sample)
        taken = time.perf_counter() - started
        return Learner(encoder, self.learner.module.objective).eval(), taken

    def score_network(self, network: Learner) -> dict[str, Any]:
        """The scores of a network."""
        infer = computed_as_trained(self.fabric, network.infer)
        return pseudo_open_set_scores(infer, network.objective, self.plan.objective.make_rule(), self.split)


def build_paths(plan: SearchPlan, outliers: Tensor, fabric: Fabric) -> tuple[Any, dict[str, Any], Schedule]:
    """A supernet with heads and its weights' optimisers, as Fabric wraps them, and their schedule."""
    supernet: Supernet = plan.make_encoder(build_supernet, plan.space)
    learner = Learner(supernet, plan.make_heads(supernet, outliers)).to(memory_format=torch.channels_last)
    plan.machine.prepare(supernet)
    optimizers = make_optimizers(learner, supernet.weight_parameters(), plan.weights.recipe.make_optimizer)
    wrapped, optimizers_ = set_up(fabric, learner, optimizers)
    return wrapped, optimizers_, plan.weights.make(learner.objective, plan.protocol, plan.seed)
