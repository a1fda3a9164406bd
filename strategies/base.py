"""What a strategy is: a way to find an architecture in a space. And what it is given: the plan of a search."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from lightning_fabric import Fabric
from torch import Tensor, nn

from nas_osr.cost.whole_run import Cost
from nas_osr.data.protocols import Protocol
from nas_osr.objectives.base import Objective
from nas_osr.plans import DataPlan, LearningData, MachinePlan, ObjectivePlan, OutputPlan, SchedulePlan
from nas_osr.runs.recorder import Recorder
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.architectures.decoding import ArchitectureWeights
from nas_osr.search_spaces.budgets import Budget
from nas_osr.search_spaces.space import Space
from nas_osr.strategies.pseudo_unknown import Classes, SearchData, choose_pseudo_unknown, split_for_search
from nas_osr.sweeps.executor import Resources


@dataclass(frozen=True)
class SearchPlan:
    """A search, complete and checked; `nas_osr.strategies.search_plan` makes it."""

    strategy: Strategy
    "what searches."
    space: Space
    "what is searched in."
    budget: Budget
    "what a network may have at most."
    latency_table: str | None
    "where times of pieces of networks are read; None measures them where they are needed."
    data: DataPlan
    "the images."
    classes: Classes
    "which of their classes are kept, and which play the unknown."
    whole_objective: ObjectivePlan
    "what is learned of all known classes, and how it is judged."
    rule_sample: int
    "kept training images on which the rule is fitted, at most."
    weights: SchedulePlan
    "how network weights learn in it."
    machine: MachinePlan
    "where it is computed."
    output: OutputPlan
    "where it goes."
    jobs: int
    "how many architectures are tried at a time."
    backend: str
    "what runs them."
    resources: Resources
    "what each may use."
    seed: int
    "of everything random."
    first: tuple[Architecture, ...]
    "what is tried before anything is drawn, by strategies that try architectures; see `trials.warm_start`."
    among: tuple[Architecture, ...]
    "the only ones that are drawn; empty for all of the space."
    found: Mapping[str, Any]
    "where the architecture comes from, for its file."
    recorded: Mapping[str, Any]
    "what config.yaml holds."

    @property
    def protocol(self) -> Protocol:
        """The classes, and the shape of the images."""
        return self.data.protocol

    @property
    def objective(self) -> ObjectivePlan:
        """What is learned of the kept classes."""
        return self.whole_objective.of_classes(self.classes.kept, self.protocol.num_known)

    @property
    def in_turn(self) -> bool:
        """Whether architectures are tried one after the other, in this process."""
        return self.jobs == 1 and self.backend == "local"

    @property
    def needs_latencies(self) -> bool:
        """Whether times of pieces of networks are needed."""
        return self.budget.latency is not None or self.strategy.needs_latencies

    def divide(self, data: LearningData) -> SearchData:
        """The images by what they are for."""
        return split_for_search(data.known, self.classes, self.seed, self.rule_sample)

    def make_encoder(self, make: Callable[..., nn.Module], described: Any) -> Any:
        """An encoder for the images: `make(described, channels, mean, std)` of a space or an architecture."""
        return make(described, self.protocol.image_shape[0], self.protocol.mean, self.protocol.std)

    def make_heads(self, encoder: nn.Module, outliers: Tensor) -> Objective:
        """The objective with heads for the kept classes; `outliers` are uint8 [n, C, H, W]. Raises UserError."""
        heads = self.objective.make(encoder, self.protocol.image_shape, len(self.classes.kept), outliers)
        heads.check_training()
        return heads

    def of_rank(self, ranks: int) -> SearchPlan:
        """What one of several ranks computes of it."""
        return replace(self, weights=replace(self.weights, batch_size=self.weights.batch_size // ranks))


@dataclass(frozen=True)
class SearchResult:
    """What a search found."""

    architecture: Architecture
    "it."
    weights: ArchitectureWeights | None
    "what was learned of every cell of the space; None where a strategy learns no such thing."
    score: float
    "of the architecture, by the criterion that picked it; larger is better."
    epoch: int
    "of the record in the history that has this score; strategies that try architectures count trials."


class Strategy:
    """A way to find an architecture.

    Attributes:
        Config: a frozen dataclass of its own options (`--strategy_config.NAME`), each with a default; it raises
            UserError for a value out of range.
        presets: by preset, the options that are not `Config`'s defaults there.
        epochs: by preset, passes over the images where they are not the preset's own.
        tries: whether it tries architectures, so that several can be tried at a time.
        config: the options.
    """

    Config: ClassVar[type]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    epochs: ClassVar[Mapping[str, int]] = {}
    tries: ClassVar[bool] = False

    def __init__(self, config: Any) -> None:
        self.config = config

    @classmethod
    def usual(cls, preset: str, space: Space | None, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """The options that a preset has where they are not given, and the space and those that are allow them."""
        return cls.presets.get(preset, {})

    @property
    def needs_latencies(self) -> bool:
        """Whether it looks at latencies, also without a limit on them."""
        return False

    @property
    def criterion(self) -> str:
        """Which score picks the architecture, by its name in the history."""
        return getattr(self.config, "criterion", "f1")

    @property
    def cost_shown(self) -> str:
        """What of a trial its score stands against on the front, by its name in the history."""
        return getattr(self.config, "against", "parameters")

    def classes(self, protocol: Protocol, given: Sequence[int] | None, seed: int) -> Classes:
        """Which known classes are kept and which play the unknown; here: as in Pseudo Auxiliary Searching.

        Args:
            given: the labels that a user wants to play the unknown; None leaves the choice.

        Raises:
            UserError: `given` are no labels, too many, or not wanted.
        """
        return choose_pseudo_unknown(protocol, given, seed)

    def check_plan(self, plan: SearchPlan) -> None:
        """UserError when the plan's parts do not go together; asked before any image is opened."""

    def check_data(self, plan: SearchPlan, data: LearningData) -> None:
        """UserError when this cannot be searched on these images; asked before anything is written."""

    def records(self, plan: SearchPlan) -> int:
        """How many records the history of a whole search has."""
        return plan.weights.epochs

    def bound(self, plan: SearchPlan) -> str | None:
        """Why a search for more epochs is another one from its first step on; None where it is not."""
        return "its strategy takes the number of epochs for each architecture"

    def cost(self, plan: SearchPlan, fabric: Fabric) -> Cost:
        """What the search computes, for `--dry_run` and the check of memory; no image is opened.

        Wrapped in `nas_osr.cost.steps.leave_no_trace`.
        """
        raise NotImplementedError

    def search(self, plan: SearchPlan, data: LearningData, fabric: Fabric, recorder: Recorder) -> SearchResult:
        """Find an architecture, seeing known training and validation images only.

        A search that is interrupted goes on from `recorder.restore()` bit for bit: it gives whatever it needs for that
        to `recorder.save`. Torch's global random state is left as it was.

        Args:
            fabric: the device, and the ranks: each calls this with the same arguments.
            recorder: takes a record of each epoch or trial, with `epoch` (counted from 0), `phase`, `losses` and `f1`.
        """
        raise NotImplementedError
