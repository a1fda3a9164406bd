"""What a run does, complete and frozen: the pieces that the plan of a search and that of a retraining share.

A request (`nas_osr.requests`) may leave fields open. A plan is made of one that has been resolved, and making it checks
whatever can be checked without an image; every field has its value then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from nas_osr.configuration import check_choice, check_switches, make_without_idle
from nas_osr.cost.estimate import count_training_images
from nas_osr.cost.steps import leave_no_trace
from nas_osr.cost.whole_run import Cost
from nas_osr.data.augmentation import Magnitudes, default_augmentation
from nas_osr.data.dataset import OpenSetData, load_data
from nas_osr.data.outliers import fingerprint_learned, load_outliers, outlier_classes
from nas_osr.data.protocols import Protocol
from nas_osr.errors import UserError
from nas_osr.files.paths import user_path
from nas_osr.objectives import objective_class, resolve_objective_config
from nas_osr.objectives.base import Objective
from nas_osr.plugins import import_plugin
from nas_osr.ranks.place import check_divided
from nas_osr.requests import DeviceOptions, MachineOptions, ObjectiveOptions, PresetOptions, RunRequest, SavingOptions
from nas_osr.runs.loggers import LoggerName, check_logger
from nas_osr.runs.resumption import begun_precision
from nas_osr.runs.run_folder import RunFolder
from nas_osr.scoring import check_rule, make_rule, rule_class
from nas_osr.scoring.base import ScoringRule
from nas_osr.search_spaces.blocks import check_compiler, prepare_encoder
from nas_osr.search_spaces.encoder import check_image_shape, feature_shapes
from nas_osr.search_spaces.presets import get_preset
from nas_osr.training.epochs import Schedule
from nas_osr.training.fabric import choose_device, describe_fabric, has_bf16, make_fabric
from nas_osr.training.learner import Learner, make_optimizers, set_up
from nas_osr.training.pace import Pace
from nas_osr.training.recipes import Recipe

T = TypeVar("T")
D = TypeVar("D", bound=DeviceOptions)


@dataclass(frozen=True)
class LearningData:
    """The images that a run learns from."""

    known: OpenSetData
    "of the known classes."
    outliers: Tensor
    "given unknown images, uint8 [n, C, H, W]; n is 0 for an objective that takes none."
    fingerprint: str
    "of all of them."


@dataclass(frozen=True)
class DataPlan:
    """Which images."""

    protocol: Protocol
    "the classes, and the shape of the images."
    load_known: Callable[[], OpenSetData]
    "reads the known training images."
    load_outliers: Callable[[], Tensor]
    "reads the given unknown images, uint8 [n, C, H, W]; there are none (n = 0) where no source is."
    count_known: Callable[[], list[int]]
    "how many images each known label has, those for validation included; opens none."

    def reading(self) -> str:
        """What `load` is about to do, in a line, before it begins; no image is opened. Raises UserError."""
        return f"reading {sum(self.count_known()):,} images of {self.protocol.name}"

    def load(self) -> LearningData:
        """Read what is learned from. Raises UserError: data missing, corrupt or of another shape."""
        known, outliers = self.load_known(), self.load_outliers()
        return LearningData(known, outliers, fingerprint_learned(known, outliers if len(outliers) else None))


@dataclass(frozen=True)
class ObjectivePlan:
    """What is learned, and how it is judged."""

    name: str
    "of the objective: a name or dotted path."
    kind: type[Objective]
    "its class."
    settings: Any
    "its full config, an instance of `kind.config_class`."
    rule: str
    "of the scoring rule: a name or dotted path."
    rule_settings: Mapping[str, Any]
    "what the user set of the rule."

    def of_classes(self, labels: Sequence[int], num_classes: int) -> ObjectivePlan:
        """The same for some of all `num_classes` known labels, which are numbered anew in this order."""
        return replace(self, settings=self.kind.select_classes(self.settings, labels, num_classes))

    def make(
        self, encoder: nn.Module, image_shape: tuple[int, int, int], num_classes: int, outliers: Tensor | None
    ) -> Objective:
        """The objective with fresh heads (from torch's global generator) over an encoder.

        Args:
            image_shape: (C, H, W).
            num_classes: of which it has heads.
            outliers: uint8 [n, C, H, W]; looked at where the objective needs them, and not before it trains.

        Raises:
            UserError: the heads do not fit the maps or the classes.
        """
        shapes = feature_shapes(encoder, image_shape)
        objective = self.kind(shapes, image_shape, num_classes, self.settings)
        if outliers is not None and self.kind.needs_outliers(self.settings):
            objective.set_outliers(outliers)
        return objective

    @property
    def side_task(self) -> str:
        """What is learned besides, or "none"; a plug-in's settings may have no such choice."""
        return str(getattr(self.settings, "side_task", "none"))

    @property
    def bound(self) -> str | None:
        """Why a longer training is another one from its first step on; None where it is not."""
        follows = self.kind.follows(self.settings)
        return f"coefficients of objective {self.name} follow the number of epochs" if follows else None

    def make_rule(self) -> ScoringRule:
        """A new rule, not fitted."""
        return make_rule(self.rule, self.rule_settings)

    def check_divided(self, batch_size: int) -> None:
        """UserError when there are several ranks and a batch of this objective cannot be divided among them."""
        check_divided(self.name, self.kind.divisible, batch_size)


@dataclass(frozen=True)
class SchedulePlan:
    """How long weights are trained, and in which steps."""

    recipe: Recipe
    "optimiser, schedule and augmentation."
    epochs: int
    "passes over the images."
    batch_size: int
    "images a step, of all ranks together."
    ends: float = math.inf
    "a deadline of a retraining, by `time.monotonic`, for which epochs are left out: see `nas_osr.training.pace`."

    def set_up(
        self, learner: Learner, fabric: Fabric, protocol: Protocol, seed: int
    ) -> tuple[Any, dict[str, Any], Schedule]:
        """The learner and its optimisers by player, as Fabric wraps them, and what the epoch loop follows."""
        recipe = self.recipe.for_batches(self.batch_size)
        optimizers = make_optimizers(learner, list(learner.encoder.parameters()), recipe.make_optimizer)
        return *set_up(fabric, learner, optimizers), self.make(learner.objective, protocol, seed)

    def make(self, heads: Objective, protocol: Protocol, seed: int) -> Schedule:
        """What the epoch loop follows."""
        recipe, factor = self.recipe, self.recipe.factor(self.epochs)
        return Schedule(
            epochs=self.epochs,
            batch_size=self.batch_size,
            factor=factor if self.ends == math.inf else Pace(factor, self.epochs, self.ends),
            clip=recipe.clip,
            scale=heads.loss_scale if recipe.scaled else 1.0,
            augmentation=default_augmentation(
                protocol,
                "none" if heads.makes_views else recipe.augmentation,
                scale=(recipe.crop, 1.0),
                **{item.name: getattr(recipe, item.name) for item in fields(Magnitudes)},
            ),
            seed=seed,
            averaging=recipe.averaging,
        )


@dataclass(frozen=True)
class MachinePlan:
    """Where it is computed, and how; the fields are those of `nas_osr.requests.MachineOptions`."""

    device: str
    precision: str
    threads: int
    deterministic: bool
    checkpointing: bool
    compile: bool
    graphs: Literal["auto", "on", "off"]

    def open(self, ranks: bool = True) -> Fabric:
        """The device; see `nas_osr.training.fabric.make_fabric`. UserError when it, or its compiler, is not there."""
        fabric = make_fabric(self.device, self.precision, self.threads, ranks=ranks)
        if self.compile:
            check_compiler(fabric.device)
        return fabric

    def estimate(self, make: Callable[[Fabric], Cost]) -> dict[str, Any]:
        """What a run will cost here, on one rank; see `nas_osr.cost.whole_run.Cost.estimate`."""
        with leave_no_trace():
            fabric = self.open(ranks=False)
            return make(fabric).estimate(fabric)

    def conditions(self, fabric: Fabric) -> dict[str, Any]:
        """What the last bits of a result depend on; see `describe_fabric`."""
        return {**describe_fabric(fabric), "graphs": self.graphs}

    def prepare(self, encoder: nn.Module) -> None:
        """Set an encoder's switches, which change what a step costs and nothing else."""
        prepare_encoder(encoder, checkpointing=self.checkpointing, compiled=self.compile)


@dataclass(frozen=True)
class OutputPlan:
    """Where a run goes, and what it says meanwhile; the fields are those of `nas_osr.requests.SavingOptions`.

    `resume` says whether what is in `out` is continued.
    """

    out: str
    resume: bool
    overwrite: bool
    checkpoint_minutes: float
    logger: LoggerName
    quiet: bool

    def check(self) -> None:
        """UserError where `create` would raise one, as far as can be told without making or locking the folder."""
        RunFolder.check(self.out, overwrite=self.overwrite, resume=self.resume)

    def create(self) -> RunFolder:
        """The run's folder; see `RunFolder.create`."""
        return RunFolder.create(self.out, overwrite=self.overwrite, resume=self.resume)


def given(value: T | None, default: T) -> T:
    """What a user gave, or else what fills an open field."""
    return default if value is None else value


def import_plugins(modules: Iterable[str]) -> None:
    """Import what the user names; comes before anything is looked up by name. Raises UserError."""
    for module in modules:
        import_plugin(module)


def plan_data(request: RunRequest, published: Protocol, protocol: Protocol, objective: ObjectivePlan) -> DataPlan:
    """Which images a request names; none is opened.

    Args:
        published: the whole protocol: outliers show no class that it knows or tests.
        protocol: what is learned of it: itself, or a rehearsal, whose truly unknown classes stay unseen, too.
        objective: what learns from them.

    Raises:
        UserError: the images are of a shape that no network takes, outliers are missing or not wanted, or there is no
            such source of them.
    """
    check_image_shape(protocol.image_shape)
    needed = objective.kind.needs_outliers(objective.settings)
    if needed and request.outliers is None:
        raise UserError(f"objective {objective.name} learns from outlier images: name a source of them with --outliers")
    if request.outliers is not None and not needed:
        raise UserError(f"objective {objective.name} takes no outlier images as it is set: leave --outliers out")
    folder, outliers = request.data_folder, request.outliers
    options: dict[str, Any] = {"limit_per_class": request.limit_per_class, "skip_broken": request.skip_broken}
    load_none: Callable[[], Tensor] = partial(torch.zeros, (0, *protocol.image_shape), dtype=torch.uint8)
    if outliers is not None:
        outlier_classes(outliers, published, folder)
    return DataPlan(
        protocol,
        load_known=partial(load_data, protocol, folder, quiet=request.quiet, **options),
        load_outliers=load_none if outliers is None else partial(load_outliers, outliers, published, folder, **options),
        count_known=partial(count_training_images, protocol, folder, request.limit_per_class),
    )


def plan_objective(request: ObjectiveOptions, protocol: Protocol, phase: str) -> ObjectivePlan:
    """What a request asks to be learned of a protocol in the phase "search" or "retrain".

    Raises:
        UserError: there is no such objective or rule, a setting of one is wrong or read by nothing, or the rule cannot
            be fed by the objective.
    """
    name = objective_of(request)
    kind = objective_class(name)
    preset = get_preset(given(getattr(request, "preset", None), PresetOptions.preset))
    usual = preset.objective_settings.get(name, {})
    settings = make_without_idle(
        f"objective {name}",
        lambda asked: resolve_objective_config(name, {**usual, **asked}, protocol, phase),
        request.objective_config,
    )
    rule = request.rule or kind.default_rule
    plan = ObjectivePlan(name, kind, settings, rule, request.rule_config)
    check_rule(rule_class(rule), kind, plan.side_task)
    plan.make_rule()
    return plan


def objective_of(request: ObjectiveOptions) -> str:
    """The name of the objective of a request in which it is not open any more."""
    if request.objective is None:
        raise RuntimeError("the preset's objective has not been filled in")
    return request.objective


def decide_precision(request: D, preset: str) -> D:
    """The request with its precision decided, so that config.yaml keeps it, where it says auto.

    What is resumed goes on in the precision that it began with. A new run is computed in bf16 where the device has it;
    on a CPU not at a preset whose networks are slower in it.

    Raises:
        UserError: the device is not there, or a file of what is resumed is broken.
    """
    if request.precision != "auto":
        return request
    asked: Any = request  # a measurement has no folder
    begun = begun_precision(user_path(asked.out)) if getattr(asked, "resume", "no") == "auto" else None
    if begun is None:
        device = choose_device(request.device)
        quicker = device.type != "cpu" or get_preset(preset).bf16_on_cpu
        begun = "bf16-mixed" if quicker and has_bf16(device) else "32-true"
    return replace(request, precision=begun)


def plan_machine(request: MachineOptions) -> MachinePlan:
    """Where a request is computed. UserError: it asks for what excludes each other."""
    check_switches(request)
    return MachinePlan(**same_fields(MachinePlan, request))


def plan_output(request: SavingOptions) -> OutputPlan:
    """Where a request's run goes. UserError: an option is out of range."""
    check_choice(request, "resume", ("no", "auto"))
    check_logger(request.logger)
    return OutputPlan(**{**same_fields(OutputPlan, request), "resume": request.resume == "auto"})


def same_fields(plan: type, request: Any) -> dict[str, Any]:
    """The fields of a plan, or of another request, that a request has, too."""
    return {item.name: getattr(request, item.name) for item in fields(plan) if hasattr(request, item.name)}
