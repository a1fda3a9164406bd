"""What is trained, and by which recipe: options that several commands share. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from nas_osr.option_docs import Choices
from nas_osr.retrain.networks import NETWORKS
from nas_osr.retrain.recipes import RECIPES


@dataclass
class RecipeOptions:
    """How a network is trained."""

    recipe: Annotated[str | None, Choices(RECIPES)] = None
    "optimiser, schedule and augmentation; the preset's when not given."
    recipe_config: dict[str, Any] = field(default_factory=dict)
    "settings of the recipe, for example --recipe_config.learning_rate 0.1."


@dataclass
class TrainingOptions(RecipeOptions):
    """What is trained, and how."""

    architecture: Any = None
    "run folder of a search, a .json or .graphml file, published, random:SEED, or the value itself."
    network: Annotated[str | None, Choices(NETWORKS, plugins=True)] = None
    "a baseline network instead of an architecture."
