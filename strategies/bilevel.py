"""Bilevel search of a supernet: DARTS updates, with Pseudo Auxiliary Searching (`pas`) or without (`darts`).

Source: NAS-OSR, Algorithm 1; DARTS, first order. Weights learn on one half of the kept training images, alphas and
betas on the other. After every epoch the supernet is scored as an open-set classifier of the kept classes, with the
pseudo-unknown classes as unknown; the best macro-F1 after warm-up picks the architecture.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from nas_osr.architecture import Architecture, SpaceDescription
from nas_osr.data.augmentation import augment, default_augmentation
from nas_osr.data.batches import iterate_batches, to_float
from nas_osr.data.dataset import LabelledImages, OpenSetData
from nas_osr.evaluation import collect_outputs
from nas_osr.graph import decode, weights_from_record
from nas_osr.metrics import auroc, macro_f1
from nas_osr.objectives.base import Objective
from nas_osr.recorder import Recorder
from nas_osr.scoring.base import ScoringRule
from nas_osr.seeds import derive_seed, make_generator
from nas_osr.training import Learner, frozen, train_epoch
from search_spaces.encoder import feature_shapes
from search_spaces.hierarchical import Supernet, build_supernet
from search_spaces.network import DiscreteNetwork, inherit_weights
from search_spaces.presets import SpaceConfig
from strategies.base import ObjectiveFactory, RuleFactory, SearchResult
from strategies.config import SearchConfig
from strategies.pseudo_unknown import SearchData, choose_pseudo_unknown, split_for_search

ARCHITECTURE_BETAS = (0.5, 0.999)  # of the architecture's Adam
INFERENCE_BATCH = 250  # images in an inference step


class Bilevel:
    """The two bilevel strategies.

    Args:
        config: a resolved search configuration.
        fabric: device and precision.
        pseudo_unknown: True is PAS; False keeps all classes and takes the last architecture (the paper's ablation).
    """

    def __init__(self, config: SearchConfig, fabric: Fabric, pseudo_unknown: bool) -> None:
        self.config = config
        self.fabric = fabric
        self.pseudo_unknown = pseudo_unknown

    def search(
        self, space: SpaceConfig, objective: ObjectiveFactory, rule: RuleFactory, data: OpenSetData, recorder: Recorder
    ) -> SearchResult:
        """Search; see `strategies.base.Strategy`. Torch's global random state is left as it was."""
        config, protocol = self.config, data.protocol
        pseudo = choose_pseudo_unknown(protocol, config.pseudo_unknown, config.seed) if self.pseudo_unknown else ()
        split = split_for_search(data, pseudo, config.seed, config.rule_sample)
        split = SearchData(split.kept, split.pseudo, *(part.to(self.fabric.device) for part in _parts(split)))
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(config.seed, "weights"))
            supernet = build_supernet(space, protocol.image_shape[0], protocol.mean, protocol.std)
            heads = objective(feature_shapes(supernet, protocol.image_shape), split.num_kept)
            return self._run(supernet, heads, rule, split, data, recorder)

    def _run(
        self,
        supernet: Supernet,
        heads: Objective,
        rule: RuleFactory,
        split: SearchData,
        data: OpenSetData,
        recorder: Recorder,
    ) -> SearchResult:
        config, fabric = self.config, self.fabric
        assert config.epochs is not None and config.warmup_epochs is not None and config.batch_size is not None
        learner: Any = Learner(supernet, heads).to(memory_format=torch.channels_last)
        weights = supernet.weight_parameters()
        optimizers: dict[str, torch.optim.Optimizer] = {
            player: torch.optim.Adam(
                learner.player_parameters(player, weights), lr=config.weight_lr, weight_decay=config.weight_decay
            )
            for player in heads.players
        }
        architecture_optimizer = torch.optim.Adam(
            list(supernet.architecture_parameters.values()), lr=config.architecture_lr, betas=ARCHITECTURE_BETAS
        )
        frozen_weights = [*weights, *heads.parameters()]
        learner, *wrapped = fabric.setup(learner, *optimizers.values(), architecture_optimizer)
        learner.mark_forward_method("infer")
        *players, architecture_optimizer = wrapped
        optimizers = dict(zip(optimizers, players, strict=True))

        best: dict[str, Any] | None = None
        first = 0
        state = recorder.restore()
        if state is not None:
            learner.load_state_dict(state["learner"])
            for player, optimizer in optimizers.items():
                optimizer.load_state_dict(state["optimizers"][player])
            architecture_optimizer.load_state_dict(state["architecture_optimizer"])
            best, first = state["best"], state["epoch"] + 1

        recipe = default_augmentation(data.protocol, config.augmentation)
        for epoch in range(first, config.epochs):
            started = time.perf_counter()
            torch.manual_seed(derive_seed(config.seed, "epoch", epoch))
            generator = make_generator(config.seed, "augmentation", epoch, device=fabric.device)
            augmentation = partial(augment, config=recipe, generator=generator)
            architecture_batches = endless(
                split.architecture, config.batch_size, make_generator(config.seed, "architecture order", epoch)
            )

            def architecture_step(progress: float) -> dict[str, Tensor]:
                images, labels = next(architecture_batches)  # noqa: B023 (used within this epoch only)
                images = augmentation(to_float(images)).contiguous(memory_format=torch.channels_last)  # noqa: B023
                with frozen(learner, frozen_weights):
                    losses = learner(images, labels, "main", progress)
                    architecture_optimizer.zero_grad(set_to_none=True)
                    fabric.backward(torch.stack(list(losses.values())).sum())
                    architecture_optimizer.step()
                return {f"architecture/{name}": value for name, value in losses.items()}

            searching = epoch >= config.warmup_epochs
            first_step = config.order == "architecture_first"
            order = make_generator(config.seed, "order", epoch)
            losses = train_epoch(
                fabric,
                learner,
                optimizers,
                iterate_batches(split.weight, config.batch_size, generator=order, drop_last=True),
                augmentation,
                steps=max(1, len(split.weight) // config.batch_size),
                epoch=epoch,
                epochs=config.epochs,
                schedule=lambda position: config.weight_lr_decay ** int(position),
                clip=config.clip,
                before_step=architecture_step if searching and first_step else None,
                after_step=architecture_step if searching and not first_step else None,
            )
            trained = time.perf_counter()
            record = {
                "epoch": epoch,
                "phase": "search" if searching else "warmup",
                "losses": losses,
                **self._judge(learner, supernet, heads, rule, split, data),
            }
            if searching and (not self.pseudo_unknown or best is None or record["f1"] >= best["f1"]):
                best = record
            recorder.record(
                record,
                {
                    "epoch": epoch,
                    "seconds": time.perf_counter() - started,
                    "training_seconds": trained - started,
                    "images": len(split.weight) * (2 if searching else 1),
                },
            )
            recorder.save(
                {
                    "epoch": epoch,
                    "learner": learner.state_dict(),
                    "optimizers": {player: optimizer.state_dict() for player, optimizer in optimizers.items()},
                    "architecture_optimizer": architecture_optimizer.state_dict(),
                    "best": best,
                }
            )
        assert best is not None
        return SearchResult(self._architecture(best, split), recorder.history())

    def _judge(
        self, learner: Any, supernet: Supernet, heads: Objective, rule: RuleFactory, split: SearchData, data: OpenSetData
    ) -> dict[str, Any]:
        """Score the supernet and its decoded network; what the history says of them."""
        description = describe_space(supernet.config)
        alpha, beta = supernet.alphas(), supernet.betas()
        branches = decode(description, supernet.config.branches, alpha, beta)
        architecture = Architecture(description, branches, {})
        network = DiscreteNetwork(
            architecture, data.protocol.image_shape[0], data.protocol.mean, data.protocol.std
        ).to(self.fabric.device, memory_format=torch.channels_last)
        inherit_weights(network, supernet, architecture)
        decoded: Any = self.fabric.setup_module(Learner(network, heads))
        decoded.mark_forward_method("infer")
        learner.eval()
        decoded.eval()
        scores = pseudo_open_set_scores(learner, rule(), split)
        discrete = pseudo_open_set_scores(decoded, rule(), split)
        return {
            **scores,
            **{f"discrete_{name}": value for name, value in discrete.items()},
            "alpha": {f"{l}/{s}": dict(zip(description.operations, p, strict=True)) for (l, s), p in alpha.items()},
            "beta": {f"{l}/{s}": {"finer": p[0], "same": p[1]} for (l, s), p in beta.items()},
            "branches": {
                str(scale): {"path": list(branch.path), "operations": list(branch.operations)}
                for scale, branch in branches.items()
            },
        }

    def _architecture(self, best: dict[str, Any], split: SearchData) -> Architecture:
        """The architecture of the winning epoch, with where it comes from."""
        config = self.config
        description = describe_space(config.space())
        branches = config.space().branches
        weights = weights_from_record(best, description, branches)
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
        return Architecture(description, decode(description, branches, weights.alpha, weights.beta), found)


def _parts(split: SearchData) -> tuple[LabelledImages, ...]:
    return (split.weight, split.architecture, split.fit_sample, split.validation, split.pseudo_unknown)


def describe_space(space: SpaceConfig) -> SpaceDescription:
    """What an architecture file says of a space."""
    return SpaceDescription(space.layers, space.channels, tuple(space.operations))


def endless(
    data: LabelledImages, batch_size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
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
    infer = partial(collect_outputs, learner.infer, batch_size=INFERENCE_BATCH, device=device)
    rule.fit(infer(split.fit_sample), split.fit_sample.labels.cpu(), learner.objective)
    scored = split.scored()
    outputs = infer(scored)
    known = len(split.validation)
    rule.set_threshold(outputs[:known], split.validation.labels.cpu())
    truth = scored.labels.cpu().numpy()
    return {
        "f1": macro_f1(truth, rule.predict(outputs).numpy(), split.num_kept),
        "auroc": auroc(rule.knownness(outputs).numpy(), truth == split.num_kept),
        "threshold": rule.threshold,
    }
