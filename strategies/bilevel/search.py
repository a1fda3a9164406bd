"""Algorithm 1 of NAS-OSR: a supernet searched by bilevel updates (DARTS, first order), judged on pseudo-unknowns.

for each epoch                                                                     nas_osr.training.epochs
    for each batch of the weight half of the kept training images                  Searching.batches
        after warm-up: lower the loss on a batch of the other half by alphas and betas
        lower the loss on the batch by the weights                                 Searching.step
    score the supernet as an open-set classifier: kept classes, pseudo-unknowns    Searching.judge
    after warm-up: keep alphas and betas if the score is the best                    Searching.keep
decode the best alphas and betas                                                   search_supernet
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from nas_osr.data.batches import iterate_batches, to_float
from nas_osr.data.dataset import LabelledImages
from nas_osr.evaluation.judging import decoder_figures
from nas_osr.plans import LearningData
from nas_osr.runs.recorder import Recorder
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.architectures.decoding import decode, weights_from_record
from nas_osr.search_spaces.constrained import decode_within
from nas_osr.seeds import derive_seed, make_generator
from nas_osr.strategies.base import SearchPlan, SearchResult
from nas_osr.strategies.bilevel.levels import Levels, capturing
from nas_osr.strategies.bilevel.perturbation import decode_by_perturbation
from nas_osr.strategies.bilevel.search_monitors import monitor_search, parameter_free
from nas_osr.strategies.inherited import following, inheriting
from nas_osr.strategies.pseudo_unknown import SearchData, pseudo_open_set_scores
from nas_osr.training.epochs import Batch, Trainer, run_epochs
from nas_osr.training.fabric import computed_as_trained
from nas_osr.training.graphs import CapturedStep, make_step
from nas_osr.training.learner import Learner
from nas_osr.training.monitors import stop_reason


def search_supernet(
    plan: SearchPlan, data: LearningData, fabric: Fabric, recorder: Recorder, picks_last: bool
) -> SearchResult:
    """Search; see `nas_osr.strategies.base.Strategy.search`.

    Args:
        picks_last: whether the last epoch wins, whatever its score.
    """
    split = plan.divide(data).to(fabric.device)
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(plan.seed, "weights"))
        searching = Searching(Levels(plan, fabric, data.outliers), split, plan, picks_last)
        run_epochs(searching, recorder)
    best = searching.best
    weights = weights_from_record(best, plan.space)
    architecture = Architecture.from_description(plan.space, best)
    return SearchResult(architecture, weights, best[plan.strategy.criterion], best["epoch"])


class Searching(Trainer):
    """The epochs and steps of Algorithm 1.

    Attributes:
        best: the record of the winner so far; empty until an epoch after warm-up has been judged.
    """

    def __init__(self, levels: Levels, split: SearchData, plan: SearchPlan, picks_last: bool) -> None:
        schedule = plan.weights.make(levels.heads, plan.protocol, plan.seed)
        fabric, learner, config = levels.fabric, levels.learner, plan.strategy.config
        graphs = capturing(config, plan.machine.graphs, fabric)
        self.levels = levels
        super().__init__(fabric, learner, levels.players, split.weight, schedule, graphs)
        graphs = graphs if isinstance(self.update, CapturedStep) else "off"
        self.update_architecture = make_step(
            levels.architecture_step, graphs, fabric, learner, {"": levels.architecture}
        )
        self.split, self.plan, self.config = split, plan, config
        self.perturbs = config.discretisation == "perturbation"
        self.picks_last = picks_last or self.perturbs
        self.best: Mapping[str, Any] = {}
        self.reached = 0.0  # the temperature of this epoch; 0 where it is open

    def phase(self, epoch: int) -> str:
        """Warm-up updates weights only, so that no operation wins because it has less to learn."""
        return "warmup" if epoch < self.config.warmup_epochs else "search"

    def batches(self, epoch: int, done: int) -> Iterator[tuple[Batch, ...]]:
        """A batch of the weight half, and after warm-up one of the architecture half beside it."""
        self.set_temperature(epoch, done)
        weights = super().batches(epoch, done)
        if self.phase(epoch) == "warmup":
            return weights
        order = make_generator(self.schedule.seed, "architecture order", epoch)
        others = islice(endless(self.split.architecture, self.schedule.batch_size, order), done, None)
        return ((*batch, other) for batch, other in zip(weights, others, strict=False))

    def temperature(self, epoch: int) -> float:
        """1 in warm-up, and then a factor lower each epoch down to the strategy's, at which the last ones stay."""
        done = epoch + 1 - self.config.warmup_epochs
        falling = self.schedule.epochs - self.config.warmup_epochs - self.settled_epochs
        return float((self.config.temperature or 1) ** min(max(done, 0) / (falling + 1), 1))

    def set_temperature(self, epoch: int, done: int) -> None:
        """That of the epoch, or the one in which the steps were done after which it goes on."""
        if not (done and self.reached):
            self.reached, entropy = self.temperature(epoch), self.config.final_entropy
            if entropy and self.is_settled(epoch):
                self.reached = self.levels.settle(self.reached, entropy)
        self.levels.set_temperature(self.reached)

    @property
    def settled_epochs(self) -> int:
        """How many epochs, the last ones, stay at the last temperature: one at least."""
        return max(1, round(self.config.settled * (self.schedule.epochs - self.config.warmup_epochs)))

    def competes(self, epoch: int) -> bool:
        """Whether an epoch may win: one after warm-up, or of those that stay at the last temperature."""
        return self.phase(epoch) == "search" and (not self.config.settled or self.is_settled(epoch))

    def is_settled(self, epoch: int) -> bool:
        """Whether an epoch is one of those."""
        return epoch >= self.schedule.epochs - self.settled_epochs

    def step(self, batches: tuple[Batch, ...], progress: float) -> Iterator[dict[str, Tensor]]:
        """Lower the loss on each half by its own level: alphas and betas at fixed weights, weights at fixed alphas."""
        searching, architecture_first = len(batches) == 2, self.config.order == "architecture_first"
        if searching and self.config.unrolled:
            yield from self.unrolled_step(batches, progress, architecture_first)
            return
        if searching and architecture_first:
            yield self.update_architecture(*self.input(*batches[1]), progress)
        yield from super().step(batches, progress)
        if searching and not architecture_first:
            yield self.update_architecture(*self.input(*batches[1]), progress)
        if searching and self.levels.stopping is not None:
            self.levels.stopping.decide()

    def unrolled_step(
        self, batches: tuple[Batch, ...], progress: float, architecture_first: bool
    ) -> Iterator[dict[str, Tensor]]:
        """The same where alphas and betas look at what the batch of weights would do to these."""
        training, other = self.input(*batches[0]), self.input(*batches[1])
        if not architecture_first:
            yield self.update(*training, progress)
        yield self.levels.unrolled_step(*other, progress, training)
        if architecture_first:
            yield self.update(*training, progress)

    def plain_update(self, images: Tensor, labels: Tensor, progress: Any) -> dict[str, Tensor]:
        """A step of the weights at fixed alphas and betas."""
        return self.levels.weight_step(images, labels, progress, self.schedule)

    def judge(self, record: Mapping[str, Any], norms: Mapping[str, float], history: Sequence[Any]) -> dict[str, Any]:
        """Score the supernet, and the network that it decodes to, as open-set classifiers of the kept classes."""
        weights = self.levels.describe_weights()
        last = record["epoch"] == self.schedule.epochs - 1
        if last and self.perturbs:
            architecture = decode_by_perturbation(self.levels.supernet, self.validation_loss)
        else:
            architecture = decode_record(weights, self.plan)
        infer = computed_as_trained(self.fabric, self.discrete(architecture).infer)
        scores, discrete = (
            pseudo_open_set_scores(forward, self.levels.heads, self.plan.objective.make_rule(), self.split)
            for forward in (self.learner.infer, infer)
        )
        judged = {
            **scores,
            **{f"discrete_{name}": value for name, value in discrete.items()},
            **decoder_figures(self.learner.reconstruct, self.split.validation),
            **weights,
            **architecture.describe(),
            "temperature": self.reached,
        }
        if self.levels.stopping is not None:
            judged["frozen_operations"] = int(self.levels.stopping.frozen.sum())
        free = parameter_free(self.levels.supernet)
        # in the second half of its fall the temperature makes the choices, on purpose
        epoch = record["epoch"]
        meant = self.reached < self.temperature(epoch) or self.reached <= self.config.temperature**0.5 < 1
        monitors = monitor_search({**record, **judged}, norms, history, free, self.config.stop_rule, last, meant)
        return {**judged, "monitors": monitors}

    def validation_loss(self) -> float:
        """The mean loss on kept validation images, always by the same random numbers."""
        total, images = 0.0, self.split.validation
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(derive_seed(self.schedule.seed, "perturbation"))
            for batch, labels in iterate_batches(images, self.schedule.batch_size):
                terms = self.learner.validate(to_float(batch), labels)
                total += float(torch.stack(list(terms.values())).sum()) * len(labels)
        return total / len(images)

    def keep(self, record: Mapping[str, Any]) -> None:
        """Remember the winner: of the epochs that compete, or end the search, the best by score, the later on ties."""
        if not self.competes(record["epoch"]) and record["monitors"]["stopped"] is None:
            return
        criterion = self.plan.strategy.criterion
        if not self.best or self.picks_last or record[criterion] >= self.best[criterion]:
            self.best = record

    def stopped(self, history: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the stop rule has ended the search."""
        return stop_reason(history) is not None

    def images_seen(self, epoch: int) -> int:
        """Those of the weight half, and as many of the other after warm-up."""
        return len(self.split.weight) * (1 if self.phase(epoch) == "warmup" else 2)

    def discrete(self, architecture: Architecture) -> Learner:
        """The network of an architecture with the supernet's weights and heads, in eval mode; see `inheriting`.

        With partial channels no network can have these weights: it is the supernet that follows the architecture.
        """
        find = following if self.config.partial_channels > 1 else inheriting
        encoder = find(self.levels.supernet, architecture, self.plan, self.fabric, self.split.fit_sample)
        return Learner(encoder, self.levels.heads).eval()

    def state_dict(self) -> dict[str, Any]:
        architecture = self.levels.architecture.state_dict()
        own = {"best": dict(self.best) or None, "temperature": self.reached, "architecture_optimizer": architecture}
        if self.levels.stopping is not None:
            own["stopping"] = self.levels.stopping.state_dict()
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.levels.architecture.load_state_dict(state["architecture_optimizer"])
        self.best, self.reached = state["best"] or {}, state.get("temperature", 0.0)  # earlier versions lowered none
        if self.levels.stopping is not None:
            self.levels.stopping.load_state_dict(state["stopping"])


def decode_record(record: Mapping[str, Any], plan: SearchPlan) -> Architecture:
    """The best path of each branch by the betas of a record, and on it each cell's strongest operation by alpha."""
    weights = weights_from_record(record, plan.space)
    if weights is None:
        raise RuntimeError("no epoch after warm-up has been judged")
    if plan.strategy.config.discretisation == "argmax":
        return decode(plan.space, weights, "argmax")
    return decode_within(plan.space, weights, plan.budget)


def endless(data: LabelledImages, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
    """Shuffled batches without end."""
    while True:
        yield from iterate_batches(data, batch_size, generator=generator, drop_last=True)
