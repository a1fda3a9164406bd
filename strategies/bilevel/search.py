"""Bilevel search of a supernet: DARTS updates, with Pseudo Auxiliary Searching (`pas`) or without (`darts`).

Source: NAS-OSR, Algorithm 1; DARTS, first order. Weights learn on one half of the kept training images, alphas and
betas on the other. After every epoch the supernet is scored as an open-set classifier of the kept classes, with the
pseudo-unknown classes as unknown; the best macro-F1 after warm-up picks the architecture.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from nas_osr.data.augmentation import augment, default_augmentation
from nas_osr.data.batches import iterate_batches, to_float
from nas_osr.data.dataset import LabelledImages, OpenSetData
from nas_osr.data.protocols import Protocol
from nas_osr.errors import UserError
from nas_osr.evaluation.judging import collect_outputs
from nas_osr.metrics.open_set import auroc, macro_f1
from nas_osr.objectives.base import Objective
from nas_osr.objectives.parts.freezing import frozen
from nas_osr.ranks.first import FirstRank
from nas_osr.ranks.replicas import assert_equal, average_gradients, average_statistics, own_rows, start_equal
from nas_osr.runs.recorder import Recorder
from nas_osr.scoring.base import ScoringRule
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.architectures.decoding import decode, weights_from_record
from nas_osr.search_spaces.encoder import feature_shapes
from nas_osr.search_spaces.network import DiscreteNetwork, inherit_weights
from nas_osr.search_spaces.prepare import prepare_encoder
from nas_osr.search_spaces.space import Space
from nas_osr.search_spaces.supernet import Supernet, build_supernet
from nas_osr.seeds import derive_seed, make_generator
from nas_osr.strategies.base import ObjectiveFactory, RuleFactory, SearchResult
from nas_osr.strategies.bilevel.pseudo_unknown import SearchData, choose_pseudo_unknown, split_for_search
from nas_osr.strategies.bilevel.search_monitors import monitor_search, parameter_free, stop_reason
from nas_osr.strategies.search_request import SearchRequest
from nas_osr.training.learner import Learner, make_optimizers
from nas_osr.training.loop import train_epoch
from nas_osr.training.monitors import NORM, gradient_norm, split_norms
from nas_osr.training.step_checkpoints import StepCheckpoints

ARCHITECTURE_BETAS = (0.5, 0.999)  # of the architecture's Adam


class Levels:
    """The supernet with its heads, and an optimiser for each level: weights (one a player) and alphas with betas.

    Attributes:
        learner: supernet and objective as Fabric wrapped them.
        players: the weights' optimisers by player.
        architecture: the optimiser of alphas and betas.
    """

    def __init__(self, supernet: Supernet, heads: Objective, config: SearchRequest, fabric: Fabric) -> None:
        self.supernet, self.heads, self.fabric = supernet, heads, fabric
        learner = Learner(supernet, heads).to(memory_format=torch.channels_last)
        prepare_encoder(supernet, checkpointing=config.checkpointing, compiled=config.compile)
        weights = supernet.weight_parameters()
        self.frozen_weights = [*weights, *heads.parameters()]
        players = make_optimizers(
            learner,
            weights,
            lambda parameters: torch.optim.Adam(
                parameters, lr=config.weight_lr, weight_decay=config.weight_decay, fused=True
            ),
        )
        assert config.architecture_lr is not None
        architecture = torch.optim.Adam(
            list(supernet.architecture_parameters.values()),
            lr=config.architecture_lr,
            betas=ARCHITECTURE_BETAS,
            fused=True,
        )
        wrapped: Any = fabric.setup(learner, *players.values(), architecture)
        self.learner, *optimizers, self.architecture = wrapped
        self.learner.mark_forward_method("infer")
        self.players: dict[str, Any] = dict(zip(players, optimizers, strict=True))

    def architecture_step(self, images: Tensor, labels: Tensor, progress: float) -> dict[str, Tensor]:
        """Update alphas and betas on one batch; weights and running statistics stay as they are."""
        with frozen(self.learner, self.frozen_weights):
            losses = self.learner(images, labels, "main", progress)
            self.architecture.zero_grad(set_to_none=True)
            self.fabric.backward(torch.stack(list(losses.values())).sum())
            average_gradients(self.fabric, self.architecture)
            norm = gradient_norm(self.supernet.architecture_parameters.values())
            self.architecture.step()
        return {**{f"architecture/{name}": value for name, value in losses.items()}, f"{NORM}architecture": norm}

    def state_dict(self) -> dict[str, Any]:
        """Everything that the updates change."""
        return {
            "learner": self.learner.state_dict(),
            "optimizers": {player: optimizer.state_dict() for player, optimizer in self.players.items()},
            "architecture_optimizer": self.architecture.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.learner.load_state_dict(state["learner"])
        for player, optimizer in self.players.items():
            optimizer.load_state_dict(state["optimizers"][player])
        self.architecture.load_state_dict(state["architecture_optimizer"])


class Bilevel:
    """The two bilevel strategies.

    Args:
        config: a resolved search configuration.
        fabric: device and precision.
        pseudo_unknown: True is PAS; False keeps all classes and takes the last architecture (the paper's ablation).
    """

    def __init__(self, config: SearchRequest, fabric: Fabric, pseudo_unknown: bool) -> None:
        self.config = config
        self.fabric = fabric
        self.pseudo_unknown = pseudo_unknown

    def check(self, data: OpenSetData) -> None:
        """UserError when there are too few images for a batch of each half."""
        split = self._split(data)
        smallest = min(len(split.weight), len(split.architecture))
        if smallest < (self.config.batch_size or 0):
            raise UserError(
                f"batch_size {self.config.batch_size} is larger than half of the kept training images ({smallest}): "
                "choose a smaller one"
            )

    def _split(self, data: OpenSetData) -> SearchData:
        config = self.config
        pseudo = choose_pseudo_unknown(data.protocol, config.pseudo_unknown, config.seed) if self.pseudo_unknown else ()
        return split_for_search(data, pseudo, config.seed, config.rule_sample)

    def _build(
        self, space: Space, objective: ObjectiveFactory, protocol: Protocol, num_kept: int
    ) -> tuple[Supernet, Objective]:
        """The supernet and its heads with fresh weights."""
        supernet = build_supernet(space, protocol.image_shape[0], protocol.mean, protocol.std)
        return supernet, objective(feature_shapes(supernet, protocol.image_shape), num_kept)

    def search(
        self, space: Space, objective: ObjectiveFactory, rule: RuleFactory, data: OpenSetData, recorder: Recorder
    ) -> SearchResult:
        """Search; see `nas_osr.strategies.base.Strategy`. Torch's global random state is left as it was."""
        config, protocol = self.config, data.protocol
        assert config.epochs is not None and config.warmup_epochs is not None
        split = self._split(data).to(self.fabric.device)
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(config.seed, "weights"))
            levels = Levels(*self._build(space, objective, protocol, split.num_kept), config, self.fabric)
            heads = levels.heads
            best: dict[str, Any] | None = None
            first = 0
            state = recorder.restore()
            if state is not None:
                levels.load_state_dict(state)
                best, first = state["best"], state["epoch"] + 1
                prepared = state.get("prepared", {})
            else:
                prepared = heads.prepare(split.weight, derive_seed(config.seed, "prepare"))

            def search_state() -> dict[str, Any]:
                return {"best": best, "prepared": prepared, **levels.state_dict()}

            checkpoints = StepCheckpoints(recorder, self.fabric.device, search_state, state)
            start_equal(self.fabric, levels.learner)
            for epoch in range(first, config.epochs):
                if stop_reason(recorder.history()) is not None:
                    break
                torch.manual_seed(derive_seed(config.seed, "epoch", epoch))
                searching = epoch >= config.warmup_epochs
                losses, norms = split_norms(self._train(levels, split, protocol, epoch, searching, checkpoints))
                assert_equal(self.fabric, levels.supernet.architecture_parameters.values(), "alphas and betas")
                assert_equal(self.fabric, levels.learner.parameters(), "weights")
                average_statistics(self.fabric, levels.learner)
                started, trained = checkpoints.started, time.perf_counter()
                scores = FirstRank(self.fabric, levels).call(lambda own: self._judge(own, rule, split, protocol))
                record = {"epoch": epoch, "phase": "search" if searching else "warmup", "losses": losses, **scores}
                if epoch == 0 and prepared:
                    record["prepared"] = prepared
                free, last = parameter_free(levels.supernet), epoch == config.epochs - 1
                record["monitors"] = monitor_search(record, norms, recorder.history(), free, config.stop_rule, last)
                # PAS: the best F1, the later on ties; without pseudo-unknowns the last architecture
                if searching and (not self.pseudo_unknown or best is None or record["f1"] >= best["f1"]):
                    best = record
                timing = {
                    "epoch": epoch,
                    "seconds": time.perf_counter() - started,
                    "training_seconds": trained - started,
                    "images": len(split.weight) * (2 if searching else 1),
                    "ranks": self.fabric.world_size,
                }
                recorder.record(record, timing)
                recorder.save({"epoch": epoch, **search_state()})
        assert best is not None
        return SearchResult(self._architecture(best, split), recorder.history())

    def _train(
        self,
        levels: Levels,
        split: SearchData,
        protocol: Protocol,
        epoch: int,
        searching: bool,
        checkpoints: StepCheckpoints,
    ) -> dict[str, float]:
        """One epoch over the weight half, with an architecture step beside each weight step after warm-up."""
        config, device = self.config, self.fabric.device
        assert config.epochs is not None and config.batch_size is not None
        generator = make_generator(config.seed, "augmentation", epoch, device=device)
        done = checkpoints.begin(epoch, generator)
        recipe = default_augmentation(protocol, "none" if levels.heads.makes_views else config.augmentation)
        augmentation = partial(augment, config=recipe, generator=generator)
        order = make_generator(config.seed, "architecture order", epoch)
        batches = islice(endless(split.architecture, config.batch_size, order), done, None)

        def architecture_step(progress: float) -> dict[str, Tensor]:
            images, labels = next(batches)
            images = own_rows(self.fabric, augmentation(to_float(images)))
            images = images.contiguous(memory_format=torch.channels_last)
            return levels.architecture_step(images, own_rows(self.fabric, labels), progress)

        order = make_generator(config.seed, "order", epoch)
        first = config.order == "architecture_first"
        return train_epoch(
            self.fabric,
            levels.learner,
            levels.players,
            iterate_batches(split.weight, config.batch_size, generator=order, drop_last=True),
            augmentation,
            steps=len(split.weight) // config.batch_size,
            epoch=epoch,
            epochs=config.epochs,
            schedule=lambda position: config.weight_lr_decay ** int(position),
            clip=config.clip,
            before_step=architecture_step if searching and first else None,
            after_step=architecture_step if searching and not first else None,
            done=done,
            checkpoints=checkpoints,
        )

    def _judge(self, levels: Levels, rule: RuleFactory, split: SearchData, protocol: Protocol) -> dict[str, Any]:
        """Score the supernet and its decoded network; what the history says of them."""
        supernet, learner = levels.supernet, levels.learner
        space = supernet.space
        alpha, beta = supernet.alphas(), supernet.betas()
        branches = decode(space, alpha, beta)
        architecture = Architecture(space, branches, {})
        network = DiscreteNetwork(architecture, protocol.image_shape[0], protocol.mean, protocol.std).to(
            memory_format=torch.channels_last
        )
        inherit_weights(network, supernet, architecture)
        decoded: Any = self.fabric.setup_module(Learner(network, levels.heads))
        decoded.mark_forward_method("infer")
        learner.eval()
        decoded.eval()
        scores = pseudo_open_set_scores(learner, rule(), split)
        discrete = pseudo_open_set_scores(decoded, rule(), split)
        return {
            **scores,
            **{f"discrete_{name}": value for name, value in discrete.items()},
            "alpha": {f"{l}/{s}": dict(zip(space.operations, p, strict=True)) for (l, s), p in alpha.items()},
            "beta": {f"{l}/{s}": {"finer": p[0], "same": p[1]} for (l, s), p in beta.items()},
            "branches": {
                str(scale): {"path": list(branch.path), "operations": list(branch.operations)}
                for scale, branch in branches.items()
            },
        }

    def _architecture(self, best: dict[str, Any], split: SearchData) -> Architecture:
        """The architecture of the winning epoch, with where it comes from."""
        config = self.config
        space = config.space()
        weights = weights_from_record(best, space)
        assert weights is not None
        found = {
            "strategy": config.strategy,
            "objective": config.objective,
            "rule": config.rule,
            "protocol": config.protocol,
            "family": config.family,
            "split": config.split,
            "seed": config.seed,
            "pseudo_unknown": list(split.pseudo),
            "epoch": best["epoch"],
            "F1": best["f1"],
        }
        return Architecture(space, decode(space, weights.alpha, weights.beta), found)


def endless(data: LabelledImages, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches without end."""
    while True:
        yield from iterate_batches(data, batch_size, generator=generator, drop_last=True)


def pseudo_open_set_scores(learner: Any, rule: ScoringRule, split: SearchData) -> dict[str, float | None]:
    """How well a network in eval mode tells kept classes and pseudo-unknown images apart.

    The rule learns from kept training images and its threshold from kept validation images only.

    Returns:
        f1: macro-F1 over the kept classes and "unknown" (over the kept ones alone when nothing plays the unknown).
        auroc: of pseudo-unknown against kept images, None without any.
        threshold: the rule's.
    """
    device = split.validation.labels.device
    infer = partial(collect_outputs, learner.infer, device=device)
    if rule.learns:
        rule.fit(infer(split.fit_sample), split.fit_sample.labels.cpu(), learner.objective)
    scored = split.scored()
    outputs = infer(scored)
    known = len(split.validation)
    rule.set_threshold(outputs[:known], split.validation.labels.cpu())
    scores = rule.scores(outputs)
    truth = scored.labels.cpu().numpy()
    return {
        "f1": macro_f1(truth, rule.decide(scores).numpy(), split.num_kept),
        "auroc": auroc(scores.knownness.numpy(), truth == split.num_kept),
        "threshold": rule.threshold,
    }
