"""Training on images that are in memory, by the code that retrains on protocols."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nas_osr.data.dataset import VALIDATION_SHARE, LabelledImages, OpenSetData
from nas_osr.data.protocols import Protocol
from nas_osr.data.sources.base import Source
from nas_osr.data.sources.shapes import fit_shape
from nas_osr.retrain.evaluate import fit_rules
from nas_osr.retrain.model import Model, inputs_of
from nas_osr.retrain.retrain_plan import plan_measured
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.runs.progress import ProgressReporter
from nas_osr.runs.recorder import Unkept
from nas_osr.seeds import derive_seed, make_generator


class MemoryImages(Source):
    """What images in memory are as a source: nothing that could be read again."""

    name = "images in memory"
    class_names = ()
    mirrors = False


class MirroredImages(MemoryImages):
    """Those whose mirror images show the same."""

    mirrors = True


def train_in_memory(
    images: Tensor, labels: Tensor, names: Sequence[str], request: RetrainRequest, seed: int, *, mirrors: bool
) -> tuple[Model, Unkept]:
    """Train a network on all known classes, fit its rule, and set the threshold on a tenth of the images of each class.

    Args:
        images: uint8 [n, C, H, W], C 1 or 3; at least two of every class. The network's sides are the next multiples of
            16.
        labels: [n] int64 in 0..N-1.
        names: of the classes.
        request: network, objective, rule, schedule and device; what it says of protocols and folders is without effect.
        seed: of everything random.
        mirrors: whether a mirrored image shows the same class.

    Returns:
        The model, and a record of each epoch.

    Raises:
        UserError: an option is wrong, or the training diverges.
    """
    channels, height, width = images.shape[1:]
    file_shape = (channels, height, width)
    images = fit_shape(images, (channels, 16 * math.ceil(height / 16), 16 * math.ceil(width / 16)))
    protocol = describe_memory(images, names, mirrors)
    training = plan_measured(request, protocol)
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(protocol.num_known):
        members = torch.nonzero(labels == label).flatten()
        order = torch.randperm(len(members), generator=make_generator(seed, "validation", label))
        held_out[members[order[: max(1, round(VALIDATION_SHARE * len(members)))]]] = True
    known = LabelledImages(images, labels, labels)
    data = OpenSetData(protocol, known.select(~held_out), known.select(held_out), MemoryImages(), MemoryImages())
    fabric = training.machine.open(ranks=False)
    epochs = Unkept(ProgressReporter(training.schedule.epochs, request.quiet))
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, "weights"))
        trained = training.train(training.build(), data, fabric, epochs, seed)
    trained.eval()
    rule = training.objective.make_rule()
    fit_rules([rule], trained, data, fabric.device)
    counts = torch.bincount(labels, minlength=protocol.num_known).tolist()
    about = {"protocol": protocol.to_dict(), "training_images": dict(zip(names, counts, strict=True))}
    learner = trained.module.cpu()
    inputs = replace(inputs_of(protocol), file_shape=file_shape)
    return Model(training.network, training.objective, inputs, learner, rule, None, about), epochs


def describe_memory(images: Tensor, names: Sequence[str], mirrors: bool) -> Protocol:
    """The protocol of images uint8 [n, C, H, W] of these classes, all known; normalised by their own statistics."""
    pixels = images.double().div(255)
    source = f"{__name__}.{(MirroredImages if mirrors else MemoryImages).__name__}"
    return Protocol(
        name="images in memory",
        family="explicit",
        split=0,
        source=source,
        known=tuple((name,) for name in names),
        unknown_source=source,
        unknown=(),
        image_shape=(images.shape[1], images.shape[2], images.shape[3]),
        mean=tuple(pixels.mean(dim=(0, 2, 3)).tolist()),
        std=tuple(pixels.std(dim=(0, 2, 3)).clamp_min(1e-3).tolist()),
    )
