"""What a run will cost, told from steps on a few images: FLOPs, seconds, and the memory that training takes.

FLOPs and activations are counted on two small batches and timed steps on somewhat larger ones. What lies between two
batch sizes is continued as a straight line: convolutions, decoders and losses of single images grow with the batch.
Losses between pairs of images grow faster, but their products are small beside the encoder's.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas_osr.cost.steps import Step, count_flops, now, random_images
from nas_osr.data.batches import to_float
from nas_osr.data.protocols import Protocol
from nas_osr.data.sources import open_source
from nas_osr.evaluation.judging import INFERENCE_BATCH

PROBES = (2, 4)  # images of the batches on which FLOPs and activations are counted
GROWTH = 4  # timed batches grow by this factor, once at least ...
LONG_ENOUGH = 0.1  # ... until a step takes so many seconds, or the batch is whole
TIMED = 3  # steps of a timed batch; the quickest counts, which other processes disturbed least
ENOUGH = 1.0  # seconds of steps of one batch after which no more are timed


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """One step: its images, floating-point operations, seconds, and bytes saved for the backward pass at once."""

    images: int
    flops: int
    seconds: float = 0.0
    activation_bytes: int


class SavedBytes:
    """Counts the bytes of tensors that autograd keeps at once, each storage once; parameters are not counted.

    with saved.hooks():
        step()
    saved.peak
    """

    def __init__(self, module: nn.Module) -> None:
        self.peak = self._bytes = 0
        self._uses: Counter[int] = Counter()
        self._own = {tensor.untyped_storage().data_ptr() for tensor in [*module.parameters(), *module.buffers()]}

    def hooks(self) -> Any:
        """The context in which is counted."""
        return torch.autograd.graph.saved_tensors_hooks(lambda tensor: _Saved(self, tensor), lambda kept: kept.tensor)

    def use(self, storage: int, size: int, change: int) -> None:
        """A tensor in this storage is kept once more (`change` 1) or once less (-1)."""
        before = self._uses[storage]
        self._uses[storage] += change
        if storage not in self._own and 0 in (before, before + change):
            self._bytes += change * size
            self.peak = max(self.peak, self._bytes)


class _Saved:
    """A saved tensor; it is counted for as long as the graph holds this."""

    def __init__(self, counter: SavedBytes, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self.tensor, self.counter = tensor, counter
        self.key = (storage.data_ptr(), storage.nbytes())
        counter.use(*self.key, 1)

    def __del__(self) -> None:
        self.counter.use(*self.key, -1)


def probe(step: Step, module: nn.Module, flops: bool = True) -> StepCost:
    """Activations of a step of `module`, from running it once; FLOPs, whose counter is slow, where they are asked for.

    Without them they are 0.
    """
    saved = SavedBytes(module)
    counted = 0
    with saved.hooks():
        if flops:
            counted = count_flops(step.run)
        else:
            step.run()
    return StepCost(images=step.images, flops=counted, activation_bytes=saved.peak)


def line(small: tuple[int, float], large: tuple[int, float], images: int) -> float:
    """The value at `images` of the straight line through two points (images, value) that does not fall."""
    slope = max(0.0, (large[1] - small[1]) / (large[0] - small[0])) if large[0] > small[0] else 0.0
    return large[1] + slope * (images - large[0])


def count_step(make: Callable[[int], Step], module: nn.Module, images: int, flops: bool = True) -> StepCost:
    """FLOPs and activations of a step on `images` images, without running one so large.

    Args:
        make: a batch size -> its step.
        module: what is trained.
        flops: whether FLOPs are counted; see `probe`.
    """
    first, second = (probe(make(min(count, images)), module, flops) for count in PROBES)
    operations, activations = (
        round(line((first.images, getattr(first, name)), (second.images, getattr(second, name)), images))
        for name in ("flops", "activation_bytes")
    )
    return StepCost(images=images, flops=operations, activation_bytes=activations)


def time_call(make: Callable[[int], Callable[[], object]], images: int, device: torch.device) -> float:
    """Seconds of a call on `images` images, from calls on fewer.

    Args:
        make: a number of images -> the call on them.
    """
    points: list[tuple[int, float]] = []
    count = min(PROBES[-1], images)
    while True:
        call = make(count)
        call()  # what the first use of a shape costs is no step's
        seconds: list[float] = []
        while len(seconds) < TIMED and sum(seconds) < ENOUGH:
            seconds.append(time_once(call, device))
        points.append((count, min(seconds)))
        if count == images or (len(points) > 1 and points[-1][1] >= LONG_ENOUGH):
            break
        count = min(GROWTH * count, images)
    return line(points[-2:][0], points[-1], images)


def time_once(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call as if the machine were its own.

    On a CPU: no more than the processor seconds of this process, which do not count those of other processes.
    """
    started, worked = now(device), time.process_time()
    call()
    elapsed, worked = now(device) - started, time.process_time() - worked
    return min(elapsed, worked) if device.type == "cpu" else elapsed


def time_judging(learner: Any, protocol: Protocol, device: torch.device) -> float:
    """Seconds for an image of a learner's forward pass without gradients, as a scoring runs it."""

    def make(count: int) -> Callable[[], object]:
        images = to_float(random_images(count, protocol.image_shape, device))
        return torch.inference_mode()(partial(learner.infer, images))

    learner.eval()
    seconds = time_call(make, INFERENCE_BATCH, device)
    learner.train()
    return seconds / INFERENCE_BATCH


def count_memory(
    learner: nn.Module, optimizers: Iterable[Any], costs: Iterable[StepCost], images: int, captured: bool = False
) -> dict[str, int]:
    """Bytes on the device of a training whose steps have run at least once, so that gradients and states are there.

    Args:
        costs: of its kinds of step.
        images: bytes of the data set on the device.
        captured: whether each kind of step keeps its memory, as a CUDA graph does.

    Returns:
        parameters: of the network and its heads, with their buffers.
        gradients: one for each parameter that learns.
        optimizers: what the optimisers remember.
        activations: the most that a step saves for its backward pass at once; of captured ones the sum.
        images: as given.
    """
    parameters = list(learner.parameters())
    states = [value for optimizer in optimizers for state in optimizer.state.values() for value in state.values()]
    return {
        "parameters": sum(tensor.nbytes for tensor in [*parameters, *learner.buffers()]),
        "gradients": sum(item.grad.nbytes for item in parameters if item.grad is not None),
        "optimizers": sum(value.nbytes for value in states if isinstance(value, Tensor)),
        "activations": (sum if captured else max)([cost.activation_bytes for cost in costs]),
        "images": images,
    }


def count_training_images(protocol: Protocol, data_dir: Path | None, limit_per_class: int | None) -> list[int]:
    """Images of each known label before validation images are set aside; no image is opened.

    Where there is an official number it is divided equally among the source's classes; elsewhere files are counted.
    """
    source = open_source(protocol.source, data_dir).select(protocol.known_classes)
    of_class = source.count_training(source.ids(protocol.known_classes))
    limit = limit_per_class or max(of_class.values())
    return [sum(min(of_class[class_id], limit) for class_id in source.ids(group)) for group in protocol.known]


def count_macs(learner: Any, image_shape: tuple[int, int, int]) -> int:
    """Multiply-accumulates of inference on one image (C, H, W), heads and whatever they decode included.

    Those of convolutions and matrix products, as torch counts them. One empty image runs through the network in eval
    mode without gradients, which leaves no trace in it.
    """
    training = learner.training
    device = next(learner.parameters()).device
    learner.eval()
    with torch.no_grad():
        flops = count_flops(lambda: learner.infer(torch.zeros(1, *image_shape, device=device)))
    learner.train(training)
    return flops // 2
