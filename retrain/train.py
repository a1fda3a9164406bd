"""Training one network on all known classes of one split: what is fixed before, and the training."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from nas_osr.data.batches import iterate_batches, to_float
from nas_osr.data.dataset import LabelledImages, OpenSetData
from nas_osr.data.protocols import Protocol
from nas_osr.errors import UserError
from nas_osr.evaluation.judging import INFERENCE_BATCH, collect_outputs, decoder_figures
from nas_osr.plans import MachinePlan, ObjectivePlan, SchedulePlan
from nas_osr.retrain.build import build_learner
from nas_osr.retrain.initial_weights import SCRATCH, InitialWeights
from nas_osr.retrain.networks.starting_weights import load_weights
from nas_osr.runs.recorder import Recorder
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.seeds import derive_seed
from nas_osr.training.epochs import Trainer, run_epochs
from nas_osr.training.learner import Learner
from nas_osr.training.monitors import monitor_retraining
from nas_osr.training.pace import Pace
from nas_osr.training.recipes import Recipe

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingPlan:
    """One network that is trained, from scratch or from given weights."""

    network: Architecture | str
    "the architecture of a discrete network, or the name of a baseline network."
    protocol: Protocol
    "the classes and images."
    objective: ObjectivePlan
    "what it learns, and how it is judged."
    schedule: SchedulePlan
    "how long."
    machine: MachinePlan
    "where."
    initial: InitialWeights = SCRATCH
    "what it begins with, where that is not fresh weights."
    weights: str = ""
    "the same of a network by name alone, see `nas_osr.retrain.networks.starting_weights.load_weights`; empty: none."

    @property
    def bound(self) -> str | None:
        """Why a longer training is another one from its first step on; None where it is not."""
        if self.schedule.recipe.schedule != "exponential":
            return f"the {self.schedule.recipe.schedule} schedule of its recipe follows the number of epochs"
        return self.objective.bound

    def fill_encoder(self, encoder: nn.Module) -> None:
        """Put the weights in place that the network begins with. Raises UserError: they are of another one."""
        self.initial.fill_encoder(encoder)
        if self.weights:
            assert isinstance(self.network, str)
            load_weights(encoder, self.network, self.weights, self.protocol.image_shape)

    def build(self, outliers: Tensor | None = None) -> Learner:
        """See `build_learner`; it is ready to train where `outliers` are given, or the objective needs none.

        UserError: the initial weights are of another network, or this one gives the objective too little.
        """
        learner = build_learner(self.network, self.protocol, self.objective, outliers, self.fill_encoder)
        self.initial.fill_heads(learner.objective)
        learner.objective.check_training()
        self.machine.prepare(learner.encoder)
        return learner

    def train(
        self, learner: Learner, data: OpenSetData, fabric: Fabric, recorder: Recorder, seed: int, draws: int = 0
    ) -> Any:
        """Train what `build` returned for all epochs, and return it as Fabric wrapped it.

        Only known training images update it. Known validation images are watched: their closed-set accuracy, and their
        losses where the recipe follows these (`draws` 0 is then 1) or `draws` says so, see `mean_losses`. The last
        epoch counts, or the best of these losses where the recipe keeps it. Torch's global random state is seeded; wrap
        the call in `torch.random.fork_rng`.
        """
        wrapped, players, schedule = self.schedule.set_up(learner, fabric, self.protocol, seed)
        train, validation = data.train.to(fabric.device), data.validation.to(fabric.device)
        recipe = self.schedule.recipe
        trainer = Retraining(
            fabric,
            wrapped,
            players,
            train,
            schedule,
            self.machine.graphs,
            validation=validation,
            recipe=recipe,
            draws=draws or int(recipe.watches),
        )
        run_epochs(trainer, recorder)
        learner.mirrored = recipe.mirrored and self.protocol.mirrors
        if trainer.best:
            wrapped.load_state_dict(trainer.best["weights"])
            if not draws:
                kept = trainer.best["epoch"] + 1
                logger.warning("the weights of epoch %d are kept: the least loss on known validation images", kept)
        return wrapped


@dataclass(eq=False, kw_only=True)
class Retraining(Trainer):
    """A training that is watched on known validation images, which lie on the device.

    Attributes:
        recipe: says which epoch is kept, and when the training ends.
        draws: see `mean_losses`; 0 leaves the losses on validation images out.
        best: loss, epoch and weights of the epoch that is kept so far; empty where the last one is.
    """

    validation: LabelledImages
    recipe: Recipe
    draws: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self.best: dict[str, Any] = {}

    @property
    def pace(self) -> Pace | None:
        """What keeps the schedule in time, where there is a deadline."""
        factor = self.schedule.factor
        return factor if isinstance(factor, Pace) else None

    def stopped(self, history: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the time is over, or the loss on validation images has not improved for the recipe's patience."""
        over = self.pace is not None and self.pace.over(history)
        return over or has_levelled(history, self.recipe.patience)

    def phase(self, epoch: int) -> str:
        return "retrain"

    def judge(self, record: Mapping[str, Any], norms: Mapping[str, float], history: Sequence[Any]) -> dict[str, Any]:
        """The closed-set accuracy, the monitors and, where they are watched, the losses.

        The accuracy is None for an objective without a classifier: its rule judges it, at the end. `decoder_share` is
        there for an objective with a decoder. With a deadline, `share` says how much of the schedule has been passed.
        """
        outputs = collect_outputs(self.learner.infer, self.validation, device=self.fabric.device)
        labels = self.validation.labels.cpu()
        accuracy = None if outputs.logits is None else float((outputs.logits.argmax(1) == labels).double().mean())
        monitors = monitor_retraining(record["losses"], norms, outputs, labels, history)
        decoder = decoder_figures(self.learner.reconstruct, self.validation)
        judged = {"validation_accuracy": accuracy, **decoder, "monitors": monitors}
        if self.pace is not None:
            judged["share"] = self.pace.next_share
        if self.draws:
            with torch.random.fork_rng():
                torch.manual_seed(derive_seed(self.schedule.seed, "validation"))  # the same draws after every epoch
                judged["validation_losses"] = mean_losses(self.learner, self.validation, self.draws)
        return judged

    def keep(self, record: Mapping[str, Any]) -> None:
        """Remember the weights of the epoch with the least loss on validation images, the earlier on ties."""
        if self.recipe.keep != "best":
            return
        loss = sum(record["validation_losses"].values())
        if not self.best or loss < self.best["loss"]:
            weights = {name: value.clone() for name, value in self.learner.state_dict().items()}
            self.best = {"loss": loss, "epoch": record["epoch"], "weights": weights}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), **({"best": self.best} if self.best else {})}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.best = state.get("best", {})


def has_levelled(history: Sequence[Mapping[str, Any]], patience: int) -> bool:
    """Whether the loss on validation images has not improved for so many epochs; never where that is 0."""
    losses = [sum(record["validation_losses"].values()) for record in history] if patience else []
    return bool(losses) and len(losses) - 1 - losses.index(min(losses)) >= patience


def mean_losses(learner: Any, data: LabelledImages, draws: int) -> dict[str, float]:
    """Each of `Objective.validation_terms`, as the mean over the images and `draws` latents of each.

    Args:
        learner: a `Learner` set up by Fabric, in eval mode.
        data: at least one image, on the learner's device.
        draws: how often each image is looked at, at least 1.

    Raises:
        UserError: a term is not finite.
    """
    repeated = data if draws == 1 else data.select(torch.arange(len(data)).repeat(draws))
    sums: dict[str, Any] = {}
    with torch.no_grad():
        for images, labels in iterate_batches(repeated, INFERENCE_BATCH):
            for name, value in learner.validate(to_float(images), labels).items():
                sums[name] = sums.get(name, 0.0) + value.double() * len(labels)
    means = {name: float(value) / len(repeated) for name, value in sums.items()}
    for name, value in means.items():
        if not math.isfinite(value):
            raise UserError(f"training diverged: validation loss {name!r} is {value}; lower the learning rate")
    return means
