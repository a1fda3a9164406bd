"""What a user asks of `nas-osr fit`. Free of torch, so that the command line can show its help at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from nas_osr.configuration import Checked, ClassNames, DataPath, UserPath
from nas_osr.errors import UserError
from nas_osr.objectives import OBJECTIVES
from nas_osr.option_docs import POSITIVE, SEEDS, Choices, Range
from nas_osr.requests import DeviceOptions, OutputOptions
from nas_osr.retrain.networks import NETWORKS
from nas_osr.scoring import BRIDGE, RULES


@dataclass
class PictureOptions(Checked):
    """Which pictures."""

    folder: DataPath
    "folder of pictures, in a folder for each class; what is in its folder `unknown` is none of them."
    known: ClassNames | None = None
    "known classes; all with training images when not given."
    unknown: ClassNames | None = None
    "classes that are not learned, to measure how well unknown pictures are told apart; `unknown` when not given."
    image_size: Annotated[int | None, Range(16)] = None
    "side in pixels, a multiple of 16, to which pictures are scaled; 32 where all are so small, 64 when not given."
    grey: bool | None = None
    "whether pictures are read as grey ones; told by them when not given."
    skip_broken: bool = False
    "pass over image files that cannot be read, and say how many; otherwise they end the run."


@dataclass
class BudgetOptions(Checked):
    """How long, and what the time is used for."""

    minutes: Annotated[float, POSITIVE] = 30.0
    "for everything: reading, search, training, evaluation."
    search: bool = False
    "search an architecture first, where the time does for that beside a whole training, and train it."
    network: Annotated[str | None, Choices(NETWORKS, plugins=True)] = None
    "another network than plain, whose width is chosen by the time."


@dataclass
class LearningOptions(Checked):
    """What is learned, and how it is judged."""

    objective: Annotated[str, Choices(OBJECTIVES, plugins=True)] = "cross_entropy"
    "training loss."
    rule: Annotated[str | None, Choices(RULES, plugins=True, besides=f"{BRIDGE}NAME")] = None
    "scoring rule; the objective's own when not given (mls for cross_entropy)."
    accept: Annotated[float, Range(0, 1, above=True, below=True)] = 0.95
    "share of known pictures to accept: the threshold accepts it of those set aside for that, a tenth of the training."
    seed: Annotated[int, SEEDS] = 0
    "of everything that is random."


@dataclass
class FitRequest(OutputOptions, DeviceOptions, LearningOptions, BudgetOptions, PictureOptions):
    """Make a model of a folder of pictures within a budget of time.

    The pictures are divided, a network is trained, its threshold set, and all is evaluated. The network's width and the
    number of epochs are chosen once, from steps that are timed on this machine, and said.
    """

    out: UserPath = "runs/fit"
    "folder of the model, and of the runs that made it."

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network is not None and self.search:
            raise UserError("search and network exclude each other: a network has nothing to be searched for")
