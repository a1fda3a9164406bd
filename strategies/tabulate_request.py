"""What a user asks of a table of trained architectures. Free of torch, so that the command line can show its help."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Annotated, Any

from nas_osr.configuration import ClassNames, UserPath
from nas_osr.option_docs import NOT_NEGATIVE, POSITIVE, SEEDS, Choices, Range
from nas_osr.requests import RunRequest, SpaceOptions
from nas_osr.search_spaces.presets import PRESETS
from nas_osr.strategies.search_request import SearchRequest, WeightOptions
from nas_osr.sweeps.job_options import JobOptions
from nas_osr.training.recipes import RECIPES


@dataclass
class TabulateRequest(JobOptions, RunRequest, SpaceOptions, WeightOptions):
    """Train every architecture of a space, or a sample, and write down how each does: a table to search in.

    Each is trained on all known classes and judged on the test images after every epoch; and as trials of a search
    train it, with known classes in the place of the unknown and without any test image. The same command goes on where
    it was interrupted, and with more seeds, rotations or a larger sample it fills up what is missing.
    """

    preset: Annotated[str, Choices(PRESETS)] = "tiny"
    "fixes the space, its sizes, and what else is left open."
    out: UserPath = "runs/table"
    "folder of the table, which is table.jsonl.xz in it."
    split: Annotated[int, NOT_NEGATIVE] = 0
    "which of the published class splits, from 0."
    sample: Annotated[int, Range(1, or_zero=True)] = 0
    "train so many different architectures, drawn at random; 0 is all."
    seeds: Annotated[int, POSITIVE] = 3
    "trainings of each on all known classes."
    rotations: Annotated[int, NOT_NEGATIVE] = 2
    "trainings of each as in a search, every one with other classes that play the unknown."
    rules: str | None = None
    "scoring rules that judge, such as cap,mls, or all; --rule and what reads logits alone when not given."
    recipe: Annotated[str | None, Choices(RECIPES)] = None
    "optimiser, schedule and augmentation of the trainings on all known classes; the preset's when not given."
    pseudo_unknown: ClassNames | None = None
    "known classes that play the unknown in the first rotation; drawn from the seed, or published, when not given."
    rule_sample: Annotated[int, POSITIVE] = 1000
    "training images on which a rule is fitted, at most."
    seed: Annotated[int, SEEDS] = 0
    "seed of everything that is random; the trainings' own are made of it."
    jobs: Annotated[int, Range(1, 4096)] = 1
    "architectures at a time; several have a process each, with its share of the cores."

    def recorded_text(self) -> str:
        """What config.yaml holds as JSON."""
        return json.dumps(self.recorded(), sort_keys=True)

    def searched(self) -> dict[str, Any]:
        """The options of a search under the same conditions."""
        own = {item.name for item in fields(self)} - {item.name for item in fields(SearchRequest)}
        own |= {item.name for item in fields(JobOptions)}
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name not in own}
