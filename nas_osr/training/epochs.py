"""The one epoch loop, of searching and retraining alike: restore, prepare; each epoch train, judge, record, save."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from nas_osr.data.augmentation import AugmentationConfig, augment, flipped_now
from nas_osr.data.batches import iterate_batches, to_float
from nas_osr.data.dataset import LabelledImages
from nas_osr.errors import UserError
from nas_osr.ranks.first import FirstRank
from nas_osr.ranks.replicas import assert_equal, average, average_statistics, own_rows, start_equal
from nas_osr.runs.recorder import Recorder
from nas_osr.seeds import derive_seed, make_generator
from nas_osr.training.graphs import Choice, make_step, set_rate
from nas_osr.training.learner import restore_weights, weight_step
from nas_osr.training.monitors import CHECK_EVERY, KEPT, FiniteWatch, LossMeter, check_weights, split_norms
from nas_osr.training.prepared import prepare_training
from nas_osr.training.step_checkpoints import StepCheckpoints
from nas_osr.training.weight_average import WeightAverage

Batch = tuple[Tensor, Tensor]  # uint8 images [B, C, H, W] and labels [B]


@dataclass(frozen=True)
class Schedule:
    """How long weights are trained, and in which steps."""

    epochs: int
    "passes over the images."
    batch_size: int
    "images a step, of all ranks together."
    factor: Callable[[float], float]
    "position in epochs -> factor on the learning rate of `main`; other players keep theirs."
    clip: float
    "largest gradient norm of a player; 0 is off."
    scale: float
    "the summed loss is divided by this before the gradient is taken."
    augmentation: AugmentationConfig
    "of the images."
    seed: int
    "of everything random."
    averaging: float = 0.0
    "of the weights, see `WeightAverage`; 0 is off."


@dataclass(eq=False)
class Trainer:
    """A learner with what its training needs. A subclass says what is judged after an epoch, and what else a step does.

    Every rank is given whole batches, augments them alike, and learns from its own rows.

    Attributes:
        fabric: device, precision and ranks.
        learner: a `nas_osr.training.learner.Learner` as Fabric wrapped it.
        optimizers: of the weights, by player, as Fabric wrapped them.
        images: what is learned from, on the device.
        schedule: how.
        graphs: whether the weight step is captured.
        update: the weight step, plain or captured: images, labels and progress -> loss terms and gradient norms.
        average: of the weights, where the schedule has one: it is what is judged, and what stays at the end.
        prepared: what the objective says of what it learned before the first step.
    """

    fabric: Fabric
    learner: Any
    optimizers: Mapping[str, Any]
    images: LabelledImages
    schedule: Schedule
    graphs: Choice = "off"

    def __post_init__(self) -> None:
        self.update = make_step(self.plain_update, self.graphs, self.fabric, self.learner, self.optimizers)
        self.average = WeightAverage(self.learner, self.schedule.averaging) if self.schedule.averaging else None
        self.prepared: dict[str, float] = {}
        self.generator = torch.Generator(device=self.fabric.device)  # of the augmentation; every epoch has its own
        self.strange = torch.zeros((), dtype=torch.bool, device=self.fabric.device)  # whether it gave what is no number

    @property
    def steps(self) -> int:
        """Of an epoch: its whole batches; where there are too few images for one, all of them are it."""
        return max(1, len(self.images) // self.schedule.batch_size)

    # What differs between trainings -------------------------------------------------------------------------------

    def phase(self, epoch: int) -> str:
        """What the history calls this epoch."""
        raise NotImplementedError

    def judge(self, record: Mapping[str, Any], norms: Mapping[str, float], history: Sequence[Any]) -> dict[str, Any]:
        """What joins the record of an epoch: scores and monitors, as plain values. The first rank alone is asked.

        Args:
            record: epoch, phase and losses.
            norms: mean gradient norm by player.
            history: the records before.
        """
        raise NotImplementedError

    def batches(self, epoch: int, done: int) -> Iterator[tuple[Batch, ...]]:
        """What each step of an epoch learns from, when `done` of them are done."""
        order = make_generator(self.schedule.seed, "order", epoch)
        drop_last = len(self.images) >= self.schedule.batch_size
        mirrored = None
        if self.schedule.augmentation.alternates:
            mirrored = flipped_now(len(self.images), self.schedule.seed, epoch).to(self.images.labels.device)
        batches = iterate_batches(
            self.images, self.schedule.batch_size, generator=order, drop_last=drop_last, mirrored=mirrored
        )
        return zip(islice(batches, done, None), strict=True)

    def plain_update(self, images: Tensor, labels: Tensor, progress: Any) -> dict[str, Tensor]:
        """The weight step as it is when it is not captured."""
        clip, scale = self.schedule.clip, self.schedule.scale
        return weight_step(self.fabric, self.learner, self.optimizers, images, labels, progress, clip, scale)

    def step(self, batches: tuple[Batch, ...], progress: float) -> Iterator[dict[str, Tensor]]:
        """Learn from what `batches` gave, at this share of the training; loss terms and gradient norms, by update."""
        yield self.update(*self.input(*batches[0]), progress)

    def keep(self, record: Mapping[str, Any]) -> None:
        """Take note of a whole record, on every rank, before it and the training's state are saved."""

    def stopped(self, history: Sequence[Mapping[str, Any]]) -> bool:
        """Whether no further epoch is wanted."""
        return False

    def images_seen(self, epoch: int) -> int:
        """How many images an epoch learns from."""
        return len(self.images)

    # What they share ----------------------------------------------------------------------------------------------

    def input(self, images: Tensor, labels: Tensor) -> Batch:
        """This rank's rows of a batch, augmented: float [b, C, H, W] in [0, 1], and labels [b]."""
        whole = augment(to_float(images), self.schedule.augmentation, self.generator)
        if self.schedule.augmentation.own:
            self.strange |= whole.isnan().any()  # read by `check_augmented`, so that no step waits for the device
        changed = own_rows(self.fabric, whole)
        return changed.contiguous(memory_format=torch.channels_last), own_rows(self.fabric, labels)

    def check_augmented(self) -> None:
        """UserError, naming it, when an augmentation of the user's own has given what is no number."""
        own = self.schedule.augmentation.own
        if own and bool(self.strange):
            raise UserError(
                f"augmentation {' or '.join(map(repr, own))} gives values that are not numbers (NaN): mend it, or "
                f"leave it out of --recipe_config.augmentation; {KEPT}"
            )

    @contextmanager
    def judged(self) -> Iterator[None]:
        """Inside, the learner has the weights that are judged: their average where there is one."""
        if self.average is None:
            yield
            return
        with self.average.in_place():
            average_statistics(self.fabric, self.learner)
            yield

    def state_dict(self) -> dict[str, Any]:
        """Everything that the training changes."""
        return {
            "prepared": self.prepared,
            "learner": self.learner.state_dict(),
            "optimizers": {player: optimizer.state_dict() for player, optimizer in self.optimizers.items()},
            **({"average": self.average.state_dict()} if self.average else {}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.prepared = state.get("prepared", {})
        restore_weights(self.learner, state["learner"], "checkpoint.pt does not fit: begin again with --overwrite")
        for player, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][player])
        if self.average:
            self.average.load_state_dict(state["average"])


def run_epochs(trainer: Trainer, recorder: Recorder) -> None:
    """Train for all epochs, or for those that are left. Torch's global random state is seeded: fork it around this.

    Raises:
        UserError: a loss, a gradient or a weight is not finite.
        KeyboardInterrupt: the process is to end; what is needed to go on has been saved.
    """
    fabric, learner, schedule = trainer.fabric, trainer.learner, trainer.schedule
    # restore the last checkpoint; a training that begins prepares what its layers and its objective take as given
    state = recorder.restore()
    if state is not None:
        trainer.load_state_dict(state)
    else:
        trainer.prepared = prepare_training(learner, trainer.images, derive_seed(schedule.seed, "prepare"))
    checkpoints = StepCheckpoints(recorder, fabric.device, trainer.state_dict, state)
    start_equal(fabric, learner)
    ended = trainer.stopped(recorder.history())
    for epoch in range(0 if state is None else state["epoch"] + 1, schedule.epochs):
        if ended:
            break
        history = recorder.history()
        # train
        losses, norms = split_norms(train_epoch(trainer, epoch, checkpoints))
        assert_equal(fabric, learner.parameters(), "weights")
        average_statistics(fabric, learner)
        trained = time.perf_counter()
        # judge
        learner.eval()
        record = {"epoch": epoch, "phase": trainer.phase(epoch), "losses": losses}
        with trainer.judged():
            record |= FirstRank(fabric, (record, norms, history)).call(lambda known: trainer.judge(*known))
            if epoch == 0 and trainer.prepared:
                record["prepared"] = trainer.prepared
            trainer.keep(record)
        # record
        timing = {
            "epoch": epoch,
            "seconds": time.perf_counter() - checkpoints.started,
            "training_seconds": trained - checkpoints.started,
            "images": trainer.images_seen(epoch),
            "ranks": fabric.world_size,
        }
        recorder.record(record, timing)
        # save
        ended = epoch == schedule.epochs - 1 or trainer.stopped(recorder.history())
        recorder.save({"epoch": epoch, **trainer.state_dict()}, needed=ended)
    if trainer.average:
        trainer.average.exchange()


def train_epoch(trainer: Trainer, epoch: int, checkpoints: StepCheckpoints) -> dict[str, float]:
    """One epoch, or the rest of one that was interrupted; the mean of each loss term and gradient norm."""
    schedule, steps, main = trainer.schedule, trainer.steps, trainer.optimizers["main"]
    meter, watch = LossMeter(), FiniteWatch()

    def check() -> None:
        trainer.check_augmented()  # before what follows from it
        watch.check(epoch, schedule.epochs, steps)
        check_weights(trainer.learner, epoch, schedule.epochs)

    # every random stream of an epoch has a seed of its own, or goes on where the epoch was left
    torch.manual_seed(derive_seed(schedule.seed, "epoch", epoch))
    trainer.generator = make_generator(schedule.seed, "augmentation", epoch, device=trainer.fabric.device)
    done = checkpoints.begin(epoch, trainer.generator, meter)
    trainer.learner.train()
    for step, batches in enumerate(trainer.batches(epoch, done), start=done):
        # the learning rate follows its schedule
        position = epoch + step / steps
        for group in main.param_groups:
            set_rate(group, main.defaults["lr"] * schedule.factor(position))
        # update the weights, and whatever else learns in this phase; then their average
        for terms in trainer.step(batches, position / schedule.epochs):
            meter.add(watch.see(terms, step))
        if trainer.average:
            trainer.average.update()
        # look for what is not finite, now and then: each look waits for the device
        if step == done:
            trainer.check_augmented()
        if (step + 1) % CHECK_EVERY == 0:
            watch.check(epoch, schedule.epochs, steps)
        # show, and save between two steps where it is time to
        checkpoints.recorder.step(step + 1, steps)
        checkpoints.after_step(step + 1, meter, check)
    check()
    average(trainer.fabric, meter.sums.values())
    return meter.means()
