"""The two strategies that search a supernet by bilevel updates: `pas`, and its ablation `darts`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from lightning_fabric import Fabric

from nas_osr.configuration import Checked, check_choice
from nas_osr.cost.whole_run import Cost
from nas_osr.data.protocols import Protocol
from nas_osr.errors import UserError
from nas_osr.option_docs import NOT_NEGATIVE, POSITIVE, SHARE, Range
from nas_osr.plans import LearningData
from nas_osr.runs.recorder import Recorder
from nas_osr.search_spaces.checks import check_partial, undivided
from nas_osr.search_spaces.space import Space
from nas_osr.strategies.base import SearchPlan, SearchResult, Strategy
from nas_osr.strategies.bilevel.search import search_supernet
from nas_osr.strategies.bilevel.search_cost import search_cost
from nas_osr.strategies.bilevel.search_monitors import STOP_RULES
from nas_osr.strategies.pseudo_unknown import Classes
from nas_osr.strategies.search_request import Criterion

logger = logging.getLogger(__name__)

ORDERS = ("architecture_first", "weights_first")
SETTLING = {"temperature": 0.05, "settled": 0.3}  # what makes a search decide: docs/reference/strategies.md
Sampler = Literal["softmax", "gdas", "drnas"]
Discretisation = Literal["best_path", "argmax", "perturbation"]


@dataclass(frozen=True)
class BilevelConfig(Checked):
    """Options of a bilevel search."""

    warmup_epochs: Annotated[int, NOT_NEGATIVE] = 10
    "first epochs that update weights only."
    architecture_lr: Annotated[float, POSITIVE] = 2e-3
    "learning rate of alphas and betas (Adam, betas .5 and .999)."
    temperature: Annotated[float, NOT_NEGATIVE] = 0.0
    "of the softmax of alphas and betas in the last epochs, to which it falls from 1 after warm-up; 0 leaves it at 1."
    settled: Annotated[float, SHARE] = 0.0
    """share of the epochs after warm-up, the last ones, that stay at the last temperature, and of which one wins; 0 is
    the last epoch alone, and any after warm-up may win (the paper's)."""
    final_entropy: Annotated[float, SHARE] = 0.0
    """largest mean entropy of alphas and betas in these epochs, 1 where all are equal: where their temperature leaves
    more, it is lowered until it is this; 0 is off."""
    sampler: Sampler = "softmax"
    """what weighs the candidates in a step: softmax, their probabilities; gdas, a hard Gumbel sample, of which the
    temperature is that of its gradient; drnas, a sample of a Dirichlet distribution."""
    entropy_weight: Annotated[float, NOT_NEGATIVE] = 0.0
    "of the mean entropy of alpha (1 where all operations are equal) in the architecture's loss; it rises to this."
    unrolled: bool = False
    "whether alphas and betas look one weight step ahead (DARTS, second order; an architecture step costs five passes)."
    partial_channels: Annotated[int, Range(1, 64)] = 1
    "K of PC-DARTS: operations of the supernet compute 1/K of the channels, and the others pass by; 1 is all."
    freeze_below: Annotated[float, SHARE] = 0.0
    """an operation's weights are frozen when its gradients on the two halves have a mean cosine below this (OLES; .4
    in its authors' code); 0 freezes none."""
    freeze_window: Annotated[int, POSITIVE] = 20
    "over how many pairs of steps that mean is taken."
    discretisation: Discretisation = "best_path"
    """how a network is made of the supernet: best_path, the most probable path and on it the largest alphas; argmax,
    the larger beta cell by cell; perturbation, what of the last epoch's supernet hurts most when it is taken away."""
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
        "paper": {"warmup_epochs": 30, "architecture_lr": 3e-4, "final_entropy": 0.1, **SETTLING},
        "small": {
            "warmup_epochs": 10,
            "architecture_lr": 2e-3,
            "partial_channels": 4,
            "final_entropy": 0.1,
            **SETTLING,
        },
        "tiny": {"warmup_epochs": 8, "architecture_lr": 6e-2, **SETTLING},
    }
    picks_last: ClassVar[bool] = False

    @classmethod
    def usual(cls, preset: str, space: Space | None, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """The preset's, but for partial channels in a space that has none, and an entropy that gdas cannot have."""
        found = dict(super().usual(preset, space, given))
        reasons = {
            "partial_channels": None if space is None else undivided(space, found.get("partial_channels", 1)),
            "final_entropy": "is nothing that gdas can have" if given.get("sampler") == "gdas" else None,
        }
        for name, reason in reasons.items():
            if reason is not None and name in found:
                del found[name]
                if name not in given:
                    logger.warning("preset %s: without its %s, which %s", preset, name, reason)
        return found

    def check_plan(self, plan: SearchPlan) -> None:
        """UserError unless some epoch comes after warm-up, and the options go together."""
        if self.config.discretisation == "perturbation" and self.config.stop_rule != "none":
            raise UserError("stop_rule: discretisation perturbation needs the last epoch's supernet: leave it at none")
        if self.config.discretisation != "best_path" and plan.budget:
            raise UserError(f"discretisation: {self.config.discretisation} keeps to no budget: leave it at best_path")
        if self.config.freeze_below and self.config.unrolled:
            raise UserError("freeze_below: an unrolled step has no gradients at the present weights: leave one out")
        check_partial(plan.space, self.config.partial_channels, plan.protocol.image_shape)
        if self.config.sampler == "gdas" and self.config.final_entropy:
            raise UserError("final_entropy: the temperature of gdas is of its gradient alone: leave it at 0")
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
        follows = {
            "the temperature of alphas and betas": self.config.temperature,
            "which epochs may win": self.config.settled,
            "when alphas and betas are to be decided": self.config.final_entropy,
            "the weight of the entropy": self.config.entropy_weight,
            "discretisation by perturbation": self.config.discretisation == "perturbation",
        }
        reasons = (f"{what} follows the number of epochs" for what, is_so in follows.items() if is_so)
        return plan.objective.bound or next(reasons, None)

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
