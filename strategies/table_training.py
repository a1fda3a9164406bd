"""One training for a table of architectures: judged after every epoch, by several rules at once."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric

from nas_osr.cost.estimate import count_macs
from nas_osr.data.batches import to_float
from nas_osr.data.dataset import LabelledImages
from nas_osr.errors import UserError
from nas_osr.evaluation.judging import collect_outputs
from nas_osr.metrics.open_set import auroc, closed_set_accuracy, macro_f1, oscr
from nas_osr.plans import LearningData, SchedulePlan, decide_precision, given, plan_objective
from nas_osr.runs.progress import ProgressReporter
from nas_osr.runs.recorder import Unkept
from nas_osr.scoring import check_rule, list_rules, make_rule, rule_class
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.network import DiscreteNetwork
from nas_osr.search_spaces.presets import get_preset, preset_objective
from nas_osr.search_spaces.zero_cost import SCORES, zero_cost
from nas_osr.seeds import derive_seed
from nas_osr.strategies.base import SearchPlan
from nas_osr.strategies.pseudo_unknown import Classes
from nas_osr.strategies.search_plan import plan_search, share
from nas_osr.strategies.search_request import SearchRequest
from nas_osr.strategies.tabulate_request import TabulateRequest
from nas_osr.strategies.trials.trial import TrialTraining, build_trial
from nas_osr.sweeps.backends import check_backend, check_shared
from nas_osr.training.epochs import run_epochs
from nas_osr.training.recipes import make_recipe

DIGITS = 5  # to which figures are rounded
UNTRAINED_IMAGES = 64  # of which zero-cost scores see a batch, or two
SIZES = ("parameters", "macs")  # which a row has in any case
READS_LOGITS = ("mls", "msp")  # judge beside the usual rule, where there are logits


@dataclass(frozen=True)
class TablePlan:
    """What a table is of, complete and checked."""

    request: TabulateRequest
    "what is asked, with every field that decides the result."
    trial: SearchPlan
    "how a search would train and judge, its classes being those of the first rotation."
    true: SearchPlan
    "the same on all known classes, by a retraining's recipe and objective."
    rotations: tuple[Classes, ...]
    "which known classes play the unknown, in turn."
    rules: tuple[str, ...]
    "what judges."


def plan_table(request: TabulateRequest) -> TablePlan:
    """The plan of a table. No image is opened. UserError: anything in the request is wrong."""
    check_backend(request, in_turn=True)
    if request.backend == "shared":
        check_shared(request)
        request = share(request)
    trial = plan_search(SearchRequest(**request.searched(), strategy="random"))
    request = replace(request, **preset_objective(request.preset, request.objective, request.objective_config))
    request = decide_precision(request, request.preset)
    protocol, preset = trial.protocol, get_preset(request.preset)
    rules = rules_of_table(request, trial)
    if not protocol.unknown:
        raise UserError(
            f"{protocol.name}: no class is unknown, so that there is nothing to judge by: name some with --unknown, or "
            "put pictures of others into the folder unknown"
        )
    epochs = given(request.epochs, preset.retrain_epochs)
    batch_size = request.batch_or(preset.retrain_batch_size)
    recipe = make_recipe(given(request.recipe, preset.recipe), {}, request.protocol)
    true = replace(
        trial,
        classes=Classes.without((), protocol.num_known),
        whole_objective=plan_objective(request, protocol, "retrain"),
        weights=SchedulePlan(recipe, epochs, batch_size),
    )
    trial = replace(trial, weights=replace(trial.weights, epochs=epochs))
    rotations = trial.classes.rotate(request.rotations, request.seed) if request.rotations else ()
    return TablePlan(request, trial, true, rotations, rules)


def rules_of_table(request: TabulateRequest, plan: SearchPlan) -> tuple[str, ...]:
    """The rules that judge, the search's own first. UserError: there is no such rule, or it cannot be fed."""
    kind, own = plan.whole_objective.kind, plan.whole_objective.rule
    if request.rules is not None:
        names = list_rules(request.rules, kind, plan.whole_objective.side_task)
    else:
        names = [name for name in READS_LOGITS if rule_class(name).needs <= kind.provides]
    for name in names:
        check_rule(rule_class(name), kind, plan.whole_objective.side_task)
    return tuple(dict.fromkeys([own, *names]))


class JudgedTraining(TrialTraining):
    """A training that is judged after every epoch."""

    def judge(self, record: Mapping[str, Any], norms: Mapping[str, float], history: Sequence[Any]) -> dict[str, Any]:
        """By all rules."""
        return {"judged": self.judging.figures(self.learner)}

    judging: Judging


@dataclass(frozen=True)
class Judging:
    """What a network is judged on, on the device; labels are 0..K-1, and K is unknown."""

    rules: Sequence[str]
    "by whom."
    settings: Mapping[str, Any]
    "of the first rule."
    fit_sample: LabelledImages
    "known training images."
    validation: LabelledImages
    "known ones that set thresholds."
    tested: LabelledImages
    "known and unknown ones."
    device: Any = field(default="cpu")
    "where."

    def figures(self, learner: Any) -> dict[str, dict[str, float]]:
        """By rule and score, in [0, 1], of a network in eval mode; its outputs are computed once."""
        infer = partial(collect_outputs, learner.infer, device=self.device)
        fitted, validation, outputs = infer(self.fit_sample), infer(self.validation), infer(self.tested)
        truth, unknown = self.tested.labels.cpu().numpy(), learner.objective.num_classes
        found = {}
        for number, name in enumerate(self.rules):
            rule = make_rule(name, self.settings if number == 0 else {})
            if rule.learns:
                rule.fit(fitted, self.fit_sample.labels.cpu(), learner.objective)
            rule.set_threshold(validation, self.validation.labels.cpu())
            scores = rule.scores(outputs)
            ranking, closed = scores.ranking.numpy(), scores.labels.numpy()
            values = {
                "auroc": auroc(ranking, truth == unknown),
                "oscr": oscr(ranking, closed, truth, unknown),
                "f1": macro_f1(truth, rule.decide(scores).numpy(), unknown),
                "accuracy": closed_set_accuracy(closed, truth, unknown),
            }
            found[name] = {score: round(float(value), DIGITS) for score, value in values.items() if value is not None}
        return found


@dataclass(frozen=True)
class TableBench:
    """Where the trainings of a table take place."""

    plan: TablePlan
    "of the table."
    data: LearningData
    "the images."
    fabric: Fabric
    "the device."

    def train_true(self, architecture: Architecture, seed: int) -> dict[str, Any]:
        """On all known classes, judged on the test images; see `train`."""
        plan, device = self.plan.true, self.fabric.device
        split = plan.divide(self.data).to(device)
        width = get_preset(self.plan.request.preset).retrain_channels
        judging = self.judging(plan, split.fit_sample, split.validation, self.data.known.test().to(device))
        own = architecture.with_network(channels=width)
        return self.train(replace(plan, space=own.space), own, split.training(), judging, ("true", seed))

    def train_as_searched(self, architecture: Architecture, rotation: int) -> dict[str, Any]:
        """On the kept classes of a rotation, judged on known images; see `train`."""
        plan = replace(self.plan.trial, classes=self.plan.rotations[rotation])
        split = plan.divide(self.data).to(self.fabric.device)
        judging = self.judging(plan, split.fit_sample, split.validation, split.scored())
        return self.train(plan, architecture, split.training(), judging, ("rotation", rotation))

    def score_untrained(self, architecture: Architecture, seed: int) -> dict[str, float | None]:
        """The zero-cost scores of its network with fresh weights, on known training images; None for one that is not
        finite."""
        plan, device = self.plan.true, self.fabric.device
        images = plan.divide(self.data).fit_sample.to(device)
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(plan.seed, "table", "untrained", seed))
            network = plan.make_encoder(DiscreteNetwork, architecture).to(device)
        batch = to_float(images.images[:UNTRAINED_IMAGES]), images.labels[:UNTRAINED_IMAGES]
        found = {name: zero_cost(name, network, *batch) for name in SCORES if name not in SIZES}
        return {name: round(score, DIGITS) if math.isfinite(score) else None for name, score in found.items()}

    def judging(self, plan: SearchPlan, *images: LabelledImages) -> Judging:
        """By the table's rules. UserError: no known image is there, or no unknown one: figures would have no value."""
        fit_sample, validation, tested = images
        known = int((tested.labels < len(plan.classes.kept)).sum())
        if not 0 < known < len(tested):
            raise UserError(
                f"{self.data.known.source.where}: a network would be judged on {known} images of known classes and "
                f"{len(tested) - known} of what plays the unknown, and both are needed: add some, or raise "
                "--limit_per_class"
            )
        settings = plan.whole_objective.rule_settings
        return Judging(self.plan.rules, settings, fit_sample, validation, tested, self.fabric.device)

    def train(
        self,
        plan: SearchPlan,
        architecture: Architecture,
        images: LabelledImages,
        judging: Judging,
        names: tuple[object, ...],
    ) -> dict[str, Any]:
        """Train from scratch, with a seed of its own; `names` are what it is made of.

        Returns:
            judged: by rule and score the figures after every epoch; parameters, macs; seconds.
        """
        started = time.perf_counter()
        seed = derive_seed(plan.seed, "table", *names)
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(seed, "weights"))
            learner, optimizers, schedule = build_trial(architecture, plan, self.data.outliers, self.fabric, seed)
            training = JudgedTraining(self.fabric, learner, optimizers, images, schedule, plan.machine.graphs)
            training.until, training.judging = schedule.epochs, judging
            recorder = Unkept(ProgressReporter(schedule.epochs, quiet=True))
            run_epochs(training, recorder)
        judged = [record["judged"] for record in recorder.history()]
        return {
            "judged": {
                rule: {score: [epoch[rule][score] for epoch in judged] for score in judged[0][rule]}
                for rule in self.plan.rules
            },
            "parameters": sum(parameter.numel() for parameter in learner.encoder.parameters()),
            "macs": count_macs(learner, plan.protocol.image_shape),
            "seconds": round(time.perf_counter() - started, 2),
        }
