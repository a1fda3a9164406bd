"""What a training step costs: seconds, memory and arithmetic, and its share of this machine's own matrix-product rate.

All calls that are compared take turns, round by round, so that a slow moment of a shared machine weighs on all alike.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import Precision
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from nas_osr.data.augmentation import AugmentationConfig, augment
from nas_osr.data.batches import to_float
from nas_osr.seeds import make_generator

K = TypeVar("K", bound=Hashable)

PRODUCT_SECONDS = 0.05  # a matrix product that takes at least this long is not held up by its start
PRODUCT_SIZES = (1024, 2048, 4096, 8192)
BF16 = "bf16-mixed"
PROGRESS = 1.0  # of the training that a step is taken from: every coefficient at its final value
SET_ASIDE = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "_unsafe_view")
OUTLIERS = 256  # random images for objectives that learn from given ones


@dataclass(frozen=True)
class Call:
    """Something to be timed, and what is set up around it outside the time."""

    run: Callable[[], object]
    around: Callable[[], AbstractContextManager[object]] = nullcontext


@dataclass(frozen=True)
class Step:
    """A kind of training step."""

    name: str
    "weights, architecture or retrain."
    images: int
    "images of a step."
    run: Callable[[], object]
    "one step of the training loop on a fixed batch."
    bare: Call
    "the same forward, backward and optimiser calls written out, without Fabric and gradient clipping."
    augment: Callable[[], object]
    "what turns a batch of uint8 images into the step's input."


@dataclass(frozen=True)
class Measured:
    """Median seconds of a call, and the bytes in use at its peak (`peak_memory`)."""

    seconds: float
    memory: int


@contextlib.contextmanager
def leave_no_trace(seed: int = 0) -> Iterator[None]:
    """Inside: torch's global generators start from `seed`; afterwards they and the CPU threads are as they were."""
    threads = torch.get_num_threads()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


def random_images(count: int, image_shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """uint8 [count, C, H, W] from torch's global generator."""
    return torch.randint(0, 256, (count, *image_shape), dtype=torch.uint8, device=device)


def random_outliers(image_shape: tuple[int, int, int]) -> Tensor:
    """As many of them, on the CPU, as an objective needs that learns from given ones."""
    return random_images(OUTLIERS, image_shape, torch.device("cpu"))


def augmenter(images: Tensor, config: AugmentationConfig) -> Callable[[], Tensor]:
    """What the training loop does to a batch uint8 [B, C, H, W] before a step: to float, augmented, channels last."""
    generator = make_generator(0, "augmentation", device=images.device)

    def run() -> Tensor:
        return augment(to_float(images), config, generator).contiguous(memory_format=torch.channels_last)

    return run


def bare_step(
    learner: Any,
    optimizers: Mapping[str, Any],
    images: Tensor,
    labels: Tensor,
    precision: Precision,
    scale: float = 1.0,
) -> None:
    """Every player's forward, backward and optimiser calls and nothing else.

    Args:
        learner, optimizers: as Fabric wrapped them; what is inside is called.
        images: as Fabric hands them to the learner, `precision.convert_input`.
        labels, scale: as in `nas_osr.training.learner.weight_step`.
        precision: Fabric's.
    """
    for player, optimizer in optimizers.items():
        with precision.forward_context():
            losses = learner.module(images, labels, player, PROGRESS)
        optimizer.optimizer.zero_grad(set_to_none=True)
        (torch.stack(list(losses.values())).sum() / scale).backward()
        optimizer.optimizer.step()


def count_flops(run: Callable[[], object]) -> int:
    """Floating-point operations of a call's convolutions and matrix products, forward and backward, by torch's counter.

    A multiplication and its addition count as two.
    """
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


class _Launches(TorchDispatchMode):
    """Counts the operations that compute something: no views of what is there, and no memory that is only set aside."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not (func.is_view or func.overloadpacket.__name__ in SET_ASIDE)
        return func(*args, **(kwargs or {}))


def count_launches(run: Callable[[], object]) -> int:
    """How many operations a call asks of its device, forward and backward: on a GPU each starts a kernel or more.

    A fused or batched operation counts as one.
    """
    with _Launches() as counter:
        run()
    return int(counter.count)


def now(device: torch.device) -> float:
    """Seconds on a steady clock, when everything asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def peak_memory(device: torch.device) -> int:
    """Bytes: tensors on a GPU since its peak was reset; on a CPU all that the process has ever held at once; 0 on
    Windows, which is not asked."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def take_turns(calls: Mapping[K, Call], device: torch.device, rounds: int, warmup: int) -> dict[K, Measured]:
    """Measure every call once a round.

    Args:
        rounds: measured rounds, at least 1; seconds are their median, memory is their largest.
        warmup: rounds before them that do not count.
    """
    seconds: dict[K, list[float]] = {name: [] for name in calls}
    memory: dict[K, list[int]] = {name: [] for name in calls}
    for turn in range(warmup + rounds):
        for name, call in calls.items():
            with call.around():
                if device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats(device)
                started = now(device)
                call.run()
                elapsed = now(device) - started
            if turn >= warmup:
                seconds[name].append(elapsed)
                memory[name].append(peak_memory(device))
    return {name: Measured(statistics.median(seconds[name]), max(memory[name])) for name in calls}


@contextlib.contextmanager
def convolution_precision() -> Iterator[None]:
    """Inside: float32 matrix products on a GPU may use TF32 where its convolutions may."""
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed


def matrix_product(device: torch.device, dtype: torch.dtype) -> tuple[Call, int]:
    """A product of square matrices large enough for this device, and their side.

    The smallest of `PRODUCT_SIZES` whose product takes `PRODUCT_SECONDS`, or else the largest.
    """
    for size in PRODUCT_SIZES:
        left, right = torch.randn(2, size, size, device=device, dtype=dtype)
        result = torch.empty(size, size, device=device, dtype=dtype)
        call = Call(partial(torch.mm, left, right, out=result), convolution_precision)
        if size == PRODUCT_SIZES[-1] or take_turns({"": call}, device, 1, 1)[""].seconds >= PRODUCT_SECONDS:
            break
    return call, size


def measure_steps(steps: Sequence[Step], fabric: Fabric, rounds: int, warmup: int) -> dict[str, Any]:
    """The cost of some kinds of step, measured in turns with a matrix product of their precision.

    Each step runs twice more before, for its FLOPs and its launches. Wrap the call in `leave_no_trace`.

    Returns:
        matrix_product: size, dtype, flops_per_second (median).
        steps: by name: images, seconds, images_per_second, launches (`count_launches`), flops, gmac_per_image (FLOPs
            / 2 / images / 1e9), share_of_peak (of the matrix product's rate), peak_memory_bytes, bare_seconds, overhead
            (of the loop over the bare calls: seconds / bare_seconds - 1), augmentation_seconds, augmentation_share (of
            `seconds`).
    """
    device = fabric.device
    dtype = torch.bfloat16 if fabric.strategy.precision.precision == BF16 else torch.float32
    flops = {step.name: count_flops(step.run) for step in steps}
    launches = {step.name: count_launches(step.run) for step in steps}
    product, size = matrix_product(device, dtype)
    calls: dict[tuple[str, str], Call] = {("", "product"): product}
    for step in steps:
        calls[step.name, "augment"] = Call(step.augment)
        calls[step.name, "bare"] = step.bare
        calls[step.name, "run"] = Call(step.run)
    measured = take_turns(calls, device, rounds, warmup)
    rate = 2 * size**3 / measured["", "product"].seconds
    result: dict[str, Any] = {}
    for step in steps:
        seconds, bare, augmented = (measured[step.name, kind].seconds for kind in ("run", "bare", "augment"))
        result[step.name] = {
            **describe_cost(seconds, step.images, launches[step.name], flops[step.name], rate),
            "peak_memory_bytes": measured[step.name, "run"].memory,
            "bare_seconds": bare,
            "overhead": seconds / bare - 1,
            "augmentation_seconds": augmented,
            "augmentation_share": augmented / seconds,
        }
    about = {"size": size, "dtype": str(dtype).removeprefix("torch."), "flops_per_second": rate}
    return {"matrix_product": about, "steps": result}


def describe_cost(seconds: float, images: int, launches: int, flops: int, rate: float) -> dict[str, Any]:
    """Time and arithmetic of a step; `rate` is the matrix product's FLOP/s."""
    return {
        "images": images,
        "seconds": seconds,
        "images_per_second": images / seconds,
        "launches": launches,
        "flops": flops,
        "gmac_per_image": flops / 2 / images / 1e9,
        "share_of_peak": flops / seconds / rate,
    }
