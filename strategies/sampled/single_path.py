"""Single Path One-Shot: a supernet is trained path by path, and evolution tries paths with the weights they inherit."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from lightning_fabric import Fabric
from torch import Tensor

from nas_osr.configuration import Checked
from nas_osr.cost.steps import random_outliers
from nas_osr.cost.whole_run import Cost, random_step
from nas_osr.errors import UserError
from nas_osr.option_docs import Range
from nas_osr.plans import LearningData
from nas_osr.ranks.first import FirstRank
from nas_osr.runs.recorder import Recorder
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.seeds import derive_seed
from nas_osr.strategies.base import SearchPlan, SearchResult, Strategy
from nas_osr.strategies.pseudo_unknown import count_search_images
from nas_osr.strategies.sampled.drawn_paths import draw_paths, path_step
from nas_osr.strategies.sampled.path_training import PathTraining, build_paths
from nas_osr.strategies.search_request import Criterion
from nas_osr.strategies.trials.asking import tell_of_draws
from nas_osr.strategies.trials.evolution import check_tournament, evolve
from nas_osr.strategies.trials.trial import Tried, describe_needs
from nas_osr.training.epochs import run_epochs


@dataclass(frozen=True)
class SinglePathConfig(Checked):
    """Options of a search by single paths. `--epochs` is what the supernet is trained for."""

    paths: Literal["uniform", "fair"] = "uniform"
    "which paths a step trains: uniform, one of all; fair, one for each operation, so that all learn equally often."
    trials: Annotated[int, Range(1)] = 100
    "how many architectures are tried then, with the weights that they inherit."
    population: Annotated[int, Range(2)] = 20
    "how many of the last ones may have children; so many are drawn at random first."
    tournament: Annotated[int, Range(1)] = 5
    "how many of them are drawn each time, of which the best is mutated."
    criterion: Criterion = "f1"
    "which score picks: f1 (the paper's), auroc or oscr of pseudo-unknown classes."

    def __post_init__(self) -> None:
        super().__post_init__()
        check_tournament(self.tournament, self.population)


class SinglePath(Strategy):
    """Single Path One-Shot (Guo et al. 2020), with regularised evolution. Records: epochs, then trials."""

    Config = SinglePathConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"trials": 1000, "population": 50, "tournament": 10},
        "tiny": {"trials": 40, "population": 10, "tournament": 3},
    }

    def check_plan(self, plan: SearchPlan) -> None:
        """UserError for a compiled supernet."""
        if plan.machine.compile:
            raise UserError("compile: single_path has another network in every step: leave it out")

    def records(self, plan: SearchPlan) -> int:
        """One an epoch of the supernet, and one a trial."""
        return plan.weights.epochs + self.config.trials  # type: ignore[no-any-return]

    def bound(self, plan: SearchPlan) -> str | None:
        return "its trials come after the last epoch"

    def cost(self, plan: SearchPlan, fabric: Fabric) -> Cost:
        """That of the first step's paths, as often as there are steps."""
        learner, optimizers, schedule = build_paths(plan, random_outliers(plan.protocol.image_shape), fabric)
        learner.train()
        paths = draw_paths(plan, self.config.paths, plan.seed)
        learner.module.encoder.follow(paths[0])

        def update(images: Tensor, labels: Tensor, progress: Any) -> dict[str, Tensor]:
            clip, scale = schedule.clip, schedule.scale
            return path_step(fabric, learner, optimizers, paths, images, labels, progress, clip, scale)

        step = partial(random_step, "weights", fabric, learner, optimizers, schedule, update=update)
        images = count_search_images(plan.data.count_known(), plan.classes, plan.rule_sample)
        epochs, trials, batch_size = plan.weights.epochs, self.config.trials, plan.weights.batch_size
        judgements = epochs + trials
        return Cost(
            learner=learner,
            optimizers=list(optimizers.values()),
            steps={"weights": step},
            batch_size=batch_size,
            protocol=plan.protocol,
            counts={"weights": max(1, images.training // batch_size) * epochs},
            scored=judgements * (images.judged + min(plan.rule_sample, images.training)),
            resident=2 * images.training + images.judged,
            about={"epochs": epochs, "trials": trials, "training_images": images.training},
        )

    def search(self, plan: SearchPlan, data: LearningData, fabric: Fabric, recorder: Recorder) -> SearchResult:
        split, epochs = plan.divide(data).to(fabric.device), plan.weights.epochs
        if fabric.is_global_zero:
            tell_of_draws(plan, self.config.population, self.config.trials)
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(plan.seed, "weights"))
            # train the supernet, or restore it as it was
            training = PathTraining.begin(plan, split, data.outliers, fabric)
            run_epochs(training, recorder)
            training.learner.eval()
            # try its paths
            history = recorder.history()
            losses, tried = history[epochs - 1]["losses"], [read(plan, record) for record in history[epochs:]]
            for trial in range(len(tried), self.config.trials):
                started = time.perf_counter()
                found = evolve(plan, trial, tried, self.config.population, self.config.tournament)
                scores, seconds = FirstRank(fabric, found).call(training.trial)
                about = {"epoch": epochs + trial, "phase": "trial", "losses": losses}
                record = {**about, **scores, **found.describe(), **describe_needs(found, plan.budget)}
                timing = {
                    "epoch": epochs + trial,
                    "seconds": time.perf_counter() - started,
                    "training_seconds": seconds,
                    "images": len(split.fit_sample),
                    "ranks": fabric.world_size,
                }
                recorder.record(record, timing)
                tried.append(read(plan, record))
                ended = trial == self.config.trials - 1
                if ended or recorder.wants_checkpoint():
                    recorder.save({"epoch": epochs + trial, **training.state_dict()}, needed=ended)
        best = max(tried, key=lambda done: done.score)
        return SearchResult(best.architecture, None, best.score, best.record["epoch"])


def read(plan: SearchPlan, record: Mapping[str, Any]) -> Tried:
    """A trial from its record."""
    architecture = Architecture.from_description(plan.space, record)
    return Tried(architecture, record[plan.strategy.criterion], record)
