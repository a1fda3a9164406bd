"""The two strategies that search a supernet by bilevel updates: `pas`, and its ablation `darts`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from lightning_fabric import Fabric

from nas_osr.configuration import Checked, check_choice
from nas_osr.cost.whole_run import Cost
from nas_osr.data.protocols import Protocol
from nas_osr.errors import UserError
from nas_osr.option_docs import NOT_NEGATIVE, POSITIVE
from nas_osr.plans import LearningData
from nas_osr.runs.recorder import Recorder
from nas_osr.strategies.base import SearchPlan, SearchResult, Strategy
from nas_osr.strategies.bilevel.search import search_supernet
from nas_osr.strategies.bilevel.search_cost import search_cost
from nas_osr.strategies.bilevel.search_monitors import STOP_RULES
from nas_osr.strategies.pseudo_unknown import Classes
from nas_osr.strategies.search_request import Criterion

ORDERS = ("architecture_first", "weights_first")


@dataclass(frozen=True)
class BilevelConfig(Checked):
    """Options of a bilevel search."""

    warmup_epochs: Annotated[int, NOT_NEGATIVE] = 10
    "first epochs that update weights only."
    architecture_lr: Annotated[float, POSITIVE] = 2e-3
    "learning rate of alphas and betas (Adam, betas .5 and .999)."
    temperature: Annotated[float, NOT_NEGATIVE] = 0.0
    "of the softmax of alphas and betas in the last epoch, to which it falls from 1 after warm-up; 0 leaves it at 1."
    order: str = "architecture_first"
    "which step comes first in a pair: architecture_first, or weights_first (Algorithm 1 of the paper)."
    criterion: Criterion = "f1"
    "which score of the supernet picks the epoch: f1 (the paper's), auroc or oscr of pseudo-unknown classes."
    stop_rule: str = "none"
    "end the search when its warning has held for three epochs: skips, entropy (of alpha) or none."

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "order", ORDERS)
        check_choice(self, "stop_rule", (*STOP_RULES, "none"))


class PAS(Strategy):
    """Pseudo Auxiliary Searching (NAS-OSR): some known classes play the unknown, and the best F1 picks.

    Attributes:
        picks_last: whether the last epoch's architecture is taken instead.
    """

    Config = BilevelConfig
    # Adam moves a logit by about its learning rate a step, so that a shorter schedule needs a larger one to get as far
    # as the paper's 3e-4 in its 4,200 steps
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"warmup_epochs": 30, "architecture_lr": 3e-4},
        "small": {"warmup_epochs": 10, "architecture_lr": 2e-3},
        "tiny": {"warmup_epochs": 8, "architecture_lr": 6e-2, "temperature": 0.1},
    }
    picks_last: ClassVar[bool] = False

    def check_plan(self, plan: SearchPlan) -> None:
        """UserError unless some epoch comes after warm-up."""
        if self.config.warmup_epochs >= plan.weights.epochs:
            raise UserError(
                f"warmup_epochs must lie between 0 and epochs - 1 = {plan.weights.epochs - 1}, "
                f"got {self.config.warmup_epochs}"
            )

    def check_data(self, plan: SearchPlan, data: LearningData) -> None:
        """UserError when there are too few images for a batch of each half."""
        split, batch_size = plan.divide(data), plan.weights.batch_size
        smallest = min(len(split.weight), len(split.architecture))
        if smallest < batch_size:
            raise UserError(
                f"batch_size {batch_size} is larger than half of the kept training images ({smallest}): "
                "choose a smaller one"
            )

    def bound(self, plan: SearchPlan) -> str | None:
        follows = (
            "the temperature of alphas and betas follows the number of epochs" if self.config.temperature else None
        )
        return plan.objective.bound or follows

    def cost(self, plan: SearchPlan, fabric: Fabric) -> Cost:
        return search_cost(plan, fabric)

    def search(self, plan: SearchPlan, data: LearningData, fabric: Fabric, recorder: Recorder) -> SearchResult:
        return search_supernet(plan, data, fabric, recorder, self.picks_last)


class DARTS(PAS):
    """The ablation of PAS: all known classes are kept, and the last architecture is taken."""

    picks_last = True

    def classes(self, protocol: Protocol, given: Sequence[int] | None, seed: int) -> Classes:
        if given:
            raise UserError("pseudo_unknown: darts keeps all known classes: leave it out, or choose strategy pas")
        return Classes.without((), protocol.num_known)

    def check_plan(self, plan: SearchPlan) -> None:
        """UserError unless some epoch comes after warm-up, also when a score is asked for that needs unknowns."""
        super().check_plan(plan)
        if self.config.criterion != "f1":
            raise UserError(
                f"criterion {self.config.criterion} needs classes that play the unknown, and darts, which takes the "
                "last epoch, has none: leave it out, or choose strategy pas"
            )
