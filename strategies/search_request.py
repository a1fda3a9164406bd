"""The typed configuration of a search. Free of torch, so that the command line can show its help at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from nas_osr.configuration import Checked, ClassNames, UserPath
from nas_osr.option_docs import NOT_NEGATIVE, POSITIVE, SEEDS, Choices, Range
from nas_osr.requests import RunRequest, SpaceOptions
from nas_osr.search_spaces.amounts import AMOUNTS
from nas_osr.strategies import STRATEGIES
from nas_osr.sweeps.job_options import JobOptions

Criterion = Literal["f1", "auroc", "oscr"]
"""Which score of kept against pseudo-unknown classes picks an architecture; f1 is the paper's."""


@dataclass
class WeightOptions(Checked):
    """How network weights learn in a search: with Adam."""

    weight_lr: Annotated[float, POSITIVE] = 5e-4
    "learning rate of the weights."
    weight_decay: Annotated[float, NOT_NEGATIVE] = 5e-5
    "weight decay of the weights."
    weight_lr_decay: Annotated[float, Range(0, 1, above=True)] = 0.97
    "factor on the learning rate after every epoch."
    clip: Annotated[float, NOT_NEGATIVE] = 5.0
    "largest gradient norm of the weights; 0 is off."
    augmentation: str = "search"
    "recipe for training images: search (crop, flip, rotation), crop_flip or none."


Amount = Annotated[int, POSITIVE] | str
"""A number, or one with k, M or G behind it, such as 300k or 1.5M."""


@dataclass
class SizeLimits(Checked):
    """What the network that is found may have at most, without the heads of the objective."""

    max_params: Amount | None = None
    "parameters, such as 300k or 1.5M."
    max_macs: Amount | None = None
    "multiply-accumulates for one image, such as 20M."
    max_memory: Amount | None = None
    "bytes at prediction, of parameters and of the maps that one image needs at once, such as 2M."
    max_latency: Annotated[float, POSITIVE] | None = None
    "milliseconds for one image, by times of the network's pieces that are measured here first."
    latency_table: UserPath | None = None
    "these times from another search's folder instead, or from its latency.json."

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in AMOUNTS:  # the command line has texts only
            value = getattr(self, name)
            if isinstance(value, str) and value.isdecimal() and int(value):
                setattr(self, name, int(value))


@dataclass
class SearchRequest(JobOptions, RunRequest, SpaceOptions, SizeLimits, WeightOptions):
    """Search an architecture."""

    # what belongs to the bilevel strategies alone stood by itself in earlier versions
    FORMER: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("warmup_epochs", "architecture_lr", "order", "stop_rule"), "strategy_config"
    )

    out: UserPath = "runs/search"
    "folder of the run."
    split: Annotated[int, NOT_NEGATIVE] = 0
    "which of the published class splits, from 0."
    strategy: Annotated[str, Choices(STRATEGIES, plugins=True)] = "pas"
    "how it is searched: docs/reference/strategies.md says what each does."
    strategy_config: dict[str, Any] = field(default_factory=dict)
    "options of the strategy, for example --strategy_config.warmup_epochs 5."
    pseudo_unknown: ClassNames | None = None
    "known classes, by name, that play the unknown; drawn from the seed, or published, when not given."
    jobs: Annotated[int, Range(1, 4096)] = 1
    "architectures tried at a time, by strategies that try some, each in a process with its share of the cores."
    rule_sample: Annotated[int, POSITIVE] = 1000
    "kept training images on which the rule is fitted when a network is judged."
    seed: Annotated[int, SEEDS] = 0
    "seed of everything that is random."
