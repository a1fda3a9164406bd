"""What is learned once, before the first step: by layers that look at the training images, and by the objective."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from nas_osr.data.batches import to_float
from nas_osr.data.dataset import LabelledImages

SAMPLE = 5000  # images that a layer looks at
BLOCK = 250  # of them at a time


class PreparedLayer(nn.Module):
    """A layer at the beginning of an encoder, part of whose state follows from the training images.

    An encoder that has one keeps what normalises its images as `normalise`. All of its state is in the `state_dict`.
    """

    @property
    def is_prepared(self) -> bool:
        """Whether the state is there: prepared before, or loaded."""
        raise NotImplementedError

    def prepare(self, blocks: Iterator[Tensor]) -> None:
        """Look at images, block by block, normalised: float [b, C, H, W] on the layer's device."""
        raise NotImplementedError


def prepare_layers(learner: nn.Module, images: Tensor) -> None:
    """Let every layer that is not prepared yet look at images uint8 [n, C, H, W], or at `SAMPLE` of them evenly spread.

    A copy of the encoder inside the objective (MoCo) has its layers prepared as well; one that begins with another
    run's weights keeps that run's.
    """
    sample = images[:: max(1, len(images) // SAMPLE)][:SAMPLE]
    for encoder in learner.modules():
        normalise = getattr(encoder, "normalise", None)
        if isinstance(normalise, nn.Module):
            for layer in unprepared_layers(encoder):
                with torch.no_grad():
                    layer.prepare(normalise(to_float(block)) for block in sample.split(BLOCK))


def unprepared_layers(encoder: nn.Module) -> list[PreparedLayer]:
    """The layers of a network that have not looked at images yet."""
    return [layer for layer in encoder.modules() if isinstance(layer, PreparedLayer) and not layer.is_prepared]


def prepare_training(learner: Any, images: LabelledImages, seed: int) -> dict[str, float]:
    """What a training begins with, where it begins; what the objective says of it.

    Args:
        learner: a `Learner`, which Fabric may have wrapped.
        images: the known training images, on its device.
        seed: decides everything random in it.
    """
    prepare_layers(learner, images.images)
    return learner.objective.prepare(images, seed)  # type: ignore[no-any-return]
