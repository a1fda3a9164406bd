"""Training one network on all known classes of one split, from scratch."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric

from nas_osr.data.augmentation import augment, default_augmentation
from nas_osr.data.batches import iterate_batches
from nas_osr.data.dataset import LabelledImages, OpenSetData
from nas_osr.distributed import FirstRank, assert_equal, average_statistics, start_equal
from nas_osr.evaluation import collect_outputs
from nas_osr.recorder import Recorder
from nas_osr.seeds import derive_seed, make_generator
from nas_osr.training import Learner, make_optimizers, train_epoch
from retrain.recipes import Recipe


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
    prepared = learner.objective.prepare(train_images, derive_seed(seed, "prepare")) if first == 0 else {}
    start_equal(fabric, wrapped)

    for epoch in range(first, epochs):
        started = time.perf_counter()
        torch.manual_seed(derive_seed(seed, "epoch", epoch))
        generator = make_generator(seed, "augmentation", epoch, device=fabric.device)
        order = make_generator(seed, "order", epoch)
        drop_last = len(train_images) >= batch_size
        losses = train_epoch(
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
        )
        assert_equal(fabric, wrapped.parameters(), "weights")
        average_statistics(fabric, wrapped)
        trained = time.perf_counter()
        wrapped.eval()
        accuracy = FirstRank(fabric, wrapped).call(partial(closed_set_accuracy, images=validation))
        recorder.record(
            {
                "epoch": epoch,
                "phase": "retrain",
                "losses": losses,
                "validation_accuracy": accuracy,
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
        recorder.save(
            {
                "epoch": epoch,
                "learner": wrapped.state_dict(),
                "optimizers": {player: optimizer.state_dict() for player, optimizer in optimizers.items()},
            }
        )
    return wrapped


def closed_set_accuracy(learner: Any, images: LabelledImages) -> float | None:
    """Share of images whose largest logit is right; None for an objective without a classifier, which its rule judges.

    `learner` is in eval mode, on the images' device.
    """
    logits = collect_outputs(learner.infer, images, device=images.labels.device).logits
    return None if logits is None else float((logits.argmax(1) == images.labels.cpu()).double().mean())
