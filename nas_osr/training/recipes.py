"""Recipes: the optimiser, schedule and augmentation of a training. Free of torch until an optimiser is made."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from nas_osr.configuration import check_choice, make_config, make_without_idle
from nas_osr.data.augmentation import Magnitudes, check_augmentation, split_names
from nas_osr.errors import UserError, suggest
from nas_osr.option_docs import NOT_NEGATIVE, POSITIVE, Range

if TYPE_CHECKING:
    import torch


OPTIMIZERS = ("sgd", "adam", "muon")
SCHEDULES = ("exponential", "triangle", "two_stage", "cosine")
RATES = {"sgd": 0.01, "adam": 0.001, "muon": 0.002}  # to begin with where a recipe is for another optimiser
READ_BY_SCHEDULE = {"decay": ("exponential", "two_stage"), "first_stage": ("two_stage",), "rise": ("triangle",)}
READ_BY_AUGMENTATION = {
    "crop": {"search"}, "rotation": {"search"}, "padding": {"crop_flip"}, "border": {"crop_flip"},
    "flips": {"search", "crop_flip"}, "changes": {"randaugment"}, "magnitude": {"randaugment", "pixmix"},
    "cutout": {"cutout"}, "jitter": {"jitter"}, "rounds": {"pixmix"}, "blend": {"pixmix"},
}  # fmt: skip


@dataclass(frozen=True)
class Recipe(Magnitudes):
    """An optimiser with its schedule and augmentation, whose strength is that of `Magnitudes`.

    Attributes:
        learning_rate: the peak.
        reference_batch: the batch size that the learning rate is for, in proportion to which it is scaled for another;
            0: for every batch size.
        optimizer: `sgd` with momentum, `adam`, or `muon` (for convolutions, AdamW for the rest: for rates like .002).
        momentum: of sgd and muon, in [0, 1).
        nesterov: Nesterov's form of momentum.
        weight_decay: L2 decay, coupled to the learning rate; with muon a share of the weights, times the rate.
        schedule: `exponential` multiplies by `decay` each epoch; `triangle` rises over the share `rise` of the
            training and falls to zero; `two_stage` multiplies by `decay` once, after the share `first_stage`; `cosine`
            falls to zero along half a wave.
        decay: factor of the exponential and two-stage schedules.
        first_stage: share of the training before the two-stage schedule's step, in (0, 1].
        rise: share of the training before the peak of the triangle.
        clip: largest gradient norm; 0 is off.
        scaled: whether the loss is divided by the objective's loss scale.
        augmentation: what is done to training images in turn, as in crop_flip,cutout: search, crop_flip, randaugment,
            cutout, jitter, pixmix, or a function by dotted path; or none.
        crop: least share of an image's area that `search` crops, in (0, 1].
        mirrored: whether the trained network is asked for the mean of what it says of an image and of its mirror image,
            wherever it is used; twice the time. Digits are never mirrored.
        averaging: how much of an average of the weights stays at each step, such as .999, in [0, 1): the average is
            then judged and saved; 0: no average.
        keep: `last` epoch's weights, or those of the `best` by the objective's loss on known validation images.
        patience: the training ends when that loss has not improved for so many epochs; 0 is never.
    """

    learning_rate: Annotated[float, POSITIVE]
    reference_batch: Annotated[int, NOT_NEGATIVE] = 0
    optimizer: str = "sgd"
    momentum: Annotated[float, Range(0, 1, below=True)] = 0.9
    nesterov: bool = False
    weight_decay: Annotated[float, NOT_NEGATIVE] = 5e-4
    schedule: str = "exponential"
    decay: Annotated[float, Range(0, 1, above=True)] = 0.992
    first_stage: Annotated[float, Range(0, 1, above=True)] = 0.75
    rise: Annotated[float, Range(0, 1, above=True, below=True)] = 0.2
    clip: Annotated[float, NOT_NEGATIVE] = 0.0
    scaled: bool = False
    augmentation: str = "search"
    crop: Annotated[float, Range(0, 1, above=True)] = 0.8
    mirrored: bool = False
    averaging: Annotated[float, Range(0, 1, below=True)] = 0.0
    keep: str = "last"
    patience: Annotated[int, NOT_NEGATIVE] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "schedule", SCHEDULES, "recipe: ")
        check_choice(self, "optimizer", OPTIMIZERS, "recipe: ")
        check_augmentation(self.augmentation, "recipe: ")
        check_choice(self, "keep", ("last", "best"), "recipe: ")
        if self.nesterov and not self.momentum:
            raise UserError("recipe: nesterov is a form of momentum, which is 0: set one of them")

    @property
    def idle(self) -> dict[str, str]:
        """The settings that nothing reads as the others are, each with why, as in "with optimizer adam"."""
        found = dict.fromkeys(("momentum", "nesterov") if self.optimizer == "adam" else (), "with optimizer adam")
        for name, schedules in READ_BY_SCHEDULE.items():
            if self.schedule not in schedules:
                found[name] = f"with schedule {self.schedule}"
        for name, changes in READ_BY_AUGMENTATION.items():
            if changes.isdisjoint(split_names(self.augmentation)):
                found[name] = f"with augmentation {self.augmentation}"
        return found

    @property
    def watches(self) -> bool:
        """Whether anything follows the loss on known validation images."""
        return self.keep == "best" or self.patience > 0

    def for_batches(self, batch_size: int) -> Recipe:
        """The same with the learning rate for steps of so many images (linear scaling: Goyal et al. 2017)."""
        if not self.reference_batch:
            return self
        return replace(self, learning_rate=self.learning_rate * batch_size / self.reference_batch)

    def factor(self, epochs: int) -> Callable[[float], float]:
        """The schedule over `epochs` epochs: position in epochs -> factor on the learning rate."""

        def at(position: float) -> float:
            if self.schedule == "exponential":
                return self.decay ** int(position)
            if self.schedule == "two_stage":
                return 1.0 if position < self.first_stage * epochs else self.decay
            share = position / epochs
            if self.schedule == "cosine":
                return (1.0 + math.cos(math.pi * share)) / 2
            return (share / self.rise + 1e-3) if share < self.rise else (1.0 - share) / (1.0 - self.rise)

        return at

    def check_installed(self) -> None:
        """UserError where what it names is not there: its optimiser in this torch, the user's own augmentation."""
        import torch

        from nas_osr.data.changes import find_change

        for name in split_names(self.augmentation):
            find_change(name)
        if self.optimizer == "muon" and not hasattr(torch.optim, "Muon"):
            raise UserError(f"recipe: optimizer muon needs torch 2.9 or newer, this is {torch.__version__}: update it")

    def make_optimizer(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser of one player."""
        import torch

        if self.optimizer == "muon":
            from nas_osr.training.muon import Muon

            return Muon(parameters, self.learning_rate, self.momentum, self.nesterov, self.weight_decay)
        if self.optimizer == "adam":
            return torch.optim.Adam(parameters, lr=self.learning_rate, weight_decay=self.weight_decay, fused=True)
        return torch.optim.SGD(
            parameters,
            lr=self.learning_rate,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            fused=True,
        )


RECIPES: dict[str, Mapping[str, Any]] = {
    # NAS-OSR, retraining: SGD 5e-4, momentum .9, decay 5e-4, times .992 an epoch
    "paper": {"learning_rate": 5e-4, "clip": 5.0},
    # CAC, CIFAR-10: SGD .01, momentum .9, 150 epochs and 50 more at a tenth; the others are in BY_PROTOCOL
    "cac": {"learning_rate": 0.01, "weight_decay": 5e-6, "schedule": "two_stage", "decay": 0.1, "keep": "best"},
    # what the papers with generative models train with
    "adam": {"learning_rate": 1e-3, "optimizer": "adam", "weight_decay": 0.0, "schedule": "exponential", "decay": 1.0},
    # GMVAE: Adam until the validation loss stays level; how long that is, and the augmentation, are ours
    "gmvae": {
        "learning_rate": 1e-3,
        "optimizer": "adam",
        "weight_decay": 0.0,
        "decay": 1.0,
        "keep": "best",
        "patience": 20,
    },
    # GradMix, in batches of 256: docs/explanation/papers/gradmix.md
    "gradmix": {"learning_rate": 1e-3, "optimizer": "adam", "weight_decay": 0.0, "schedule": "cosine"},
    # a short schedule: large peak, Nesterov momentum; docs/reference/recipes.md has the ablations
    "fast": {
        "learning_rate": 0.2,
        "reference_batch": 128,
        "nesterov": True,
        "schedule": "triangle",
        "clip": 1.0,
        "scaled": True,
    },
    # what moves detection in an hour of two cores or less; docs/reference/recipes.md
    "strong": {
        "learning_rate": 0.1,
        "reference_batch": 128,
        "nesterov": True,
        "schedule": "triangle",
        "clip": 1.0,
        "scaled": True,
        "augmentation": "crop_flip",
        "border": "reflect",
        "flips": "alternating",
        "mirrored": True,
    },
}

_CAC_DIGITS = {"first_stage": 1.0, "crop": 0.7, "rotation": 0.0}
#: What a recipe's authors did otherwise on other protocols than the one that it stands for.
BY_PROTOCOL: dict[str, Mapping[str, Mapping[str, Any]]] = {
    "cac": {
        "digits": _CAC_DIGITS,
        "mnist": _CAC_DIGITS,
        "svhn": _CAC_DIGITS,
        "cifar+10": {"weight_decay": 5e-4},
        "cifar+50": {"weight_decay": 5e-4},
        "tinyimagenet": {"weight_decay": 1e-3, "first_stage": 500 / 800, "crop": 0.7, "rotation": 20.0},
    }
}


def make_recipe(name: str, settings: Mapping[str, Any], protocol: str = "") -> Recipe:
    """The recipe of this name, as it is for a protocol, with the user's settings.

    Another optimiser needs a learning rate of its own; under Adam, settings of momentum are as if not given.

    Raises:
        UserError: an unknown name or setting, one that nothing reads, or an optimiser without its learning rate.
    """
    if name not in RECIPES:
        raise UserError(f"unknown recipe {name!r}: choose one of {', '.join(RECIPES)}{suggest(name, RECIPES)}")
    defaults = Recipe(**{**RECIPES[name], **BY_PROTOCOL.get(name, {}).get(protocol, {})})

    def make(asked: Mapping[str, Any]) -> Recipe:
        usual = vars(defaults)
        if asked.get("optimizer", defaults.optimizer) == "adam":
            usual = {**usual, "momentum": Recipe.momentum, "nesterov": Recipe.nesterov}
        return make_config(f"recipe {name}", Recipe, {**usual, **asked})

    recipe = make_without_idle(f"recipe {name}", make, settings)
    if recipe.optimizer != defaults.optimizer and "learning_rate" not in settings:
        raise UserError(
            f"recipe {name}: its learning rate {defaults.learning_rate:g} is for {defaults.optimizer}: give one for "
            f"{recipe.optimizer}, such as --recipe_config.learning_rate {RATES[recipe.optimizer]:g}"
        )
    return recipe
