"""Training one network on all known classes of one split, from scratch."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric

from nas_osr.data.augmentation import augment, default_augmentation
from nas_osr.data.batches import iterate_batches
from nas_osr.data.dataset import LabelledImages, OpenSetData
from nas_osr.evaluation.judging import collect_outputs
from nas_osr.ranks.first import FirstRank
from nas_osr.ranks.replicas import assert_equal, average_statistics, start_equal
from nas_osr.retrain.recipes import Recipe
from nas_osr.runs.recorder import Recorder
from nas_osr.seeds import derive_seed, make_generator
from nas_osr.training.learner import Learner, make_optimizers
from nas_osr.training.loop import train_epoch
from nas_osr.training.monitors import monitor_retraining, split_norms
from nas_osr.training.step_checkpoints import StepCheckpoints


def train(
    learner: Learner,
    data: OpenSetData,
    recipe: Recipe,
    fabric: Fabric,
    recorder: Recorder,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
) -> Any:
    """Train `learner` for all epochs and return it as Fabric wrapped it.

    Only known training images update it. Known validation images are watched (closed-set accuracy), but nothing is
    chosen by them: the last epoch counts. Torch's global random state is seeded; wrap the call in
    `torch.random.fork_rng`.
    """
    optimizers = make_optimizers(learner, list(learner.encoder.parameters()), recipe.make_optimizer)
    wrapped: Any
    wrapped, *players = fabric.setup(learner, *optimizers.values())
    wrapped.mark_forward_method("infer")
    optimizers = dict(zip(optimizers, players, strict=True))
    train_images, validation = data.train.to(fabric.device), data.validation.to(fabric.device)
    makes_views = learner.objective.makes_views
    augmentation = default_augmentation(data.protocol, "none" if makes_views else recipe.augmentation)

    first = 0
    state = recorder.restore()
    if state is not None:
        wrapped.load_state_dict(state["learner"])
        for player, optimizer in optimizers.items():
            optimizer.load_state_dict(state["optimizers"][player])
        first = state["epoch"] + 1
        prepared = state.get("prepared", {})
    else:
        prepared = learner.objective.prepare(train_images, derive_seed(seed, "prepare"))

    def training_state() -> dict[str, Any]:
        return {
            "prepared": prepared,
            "learner": wrapped.state_dict(),
            "optimizers": {player: optimizer.state_dict() for player, optimizer in optimizers.items()},
        }

    checkpoints = StepCheckpoints(recorder, fabric.device, training_state, state)
    start_equal(fabric, wrapped)

    for epoch in range(first, epochs):
        torch.manual_seed(derive_seed(seed, "epoch", epoch))
        generator = make_generator(seed, "augmentation", epoch, device=fabric.device)
        done = checkpoints.begin(epoch, generator)
        started = checkpoints.started
        order = make_generator(seed, "order", epoch)
        drop_last = len(train_images) >= batch_size
        means = train_epoch(
            fabric,
            wrapped,
            optimizers,
            iterate_batches(train_images, batch_size, generator=order, drop_last=drop_last),
            partial(augment, config=augmentation, generator=generator),
            steps=max(1, len(train_images) // batch_size),
            epoch=epoch,
            epochs=epochs,
            schedule=recipe.factor(epochs),
            clip=recipe.clip,
            scale=learner.objective.loss_scale if recipe.scaled else 1.0,
            done=done,
            checkpoints=checkpoints,
        )
        assert_equal(fabric, wrapped.parameters(), "weights")
        average_statistics(fabric, wrapped)
        trained = time.perf_counter()
        wrapped.eval()
        losses, norms = split_norms(means)
        judge = partial(watch_validation, validation=validation, losses=losses, norms=norms, history=recorder.history())
        accuracy, monitors = FirstRank(fabric, wrapped).call(judge)
        recorder.record(
            {
                "epoch": epoch,
                "phase": "retrain",
                "losses": losses,
                "validation_accuracy": accuracy,
                "monitors": monitors,
                **({"prepared": prepared} if epoch == 0 and prepared else {}),
            },
            {
                "epoch": epoch,
                "seconds": time.perf_counter() - started,
                "training_seconds": trained - started,
                "images": len(train_images),
                "ranks": fabric.world_size,
            },
        )
        recorder.save({"epoch": epoch, **training_state()})
    return wrapped


def watch_validation(
    learner: Any,
    validation: LabelledImages,
    losses: Mapping[str, float],
    norms: Mapping[str, float],
    history: Sequence[Mapping[str, Any]],
) -> tuple[float | None, dict[str, Any]]:
    """How a network, in eval mode and on the images' device, fares after an epoch on known validation images.

    Returns:
        closed-set accuracy, None for an objective without a classifier (its rule judges it, at the end), and what
        `monitor_retraining` says; losses, norms and history are its arguments.
    """
    outputs = collect_outputs(learner.infer, validation, device=validation.labels.device)
    labels = validation.labels.cpu()
    accuracy = None if outputs.logits is None else float((outputs.logits.argmax(1) == labels).double().mean())
    return accuracy, monitor_retraining(losses, norms, outputs, labels, history)
