"""Steps that are captured as CUDA graphs after a warm-up and replayed, so that no step waits for Python.

The first `WARM_UP` calls of a step run plainly. The next one is recorded with everything in it, forward, backward,
clipping and optimiser, and from then on its kernels are started at once. What a step is given (a batch, the progress of
the training, the learning rates) lies in tensors that stay where they are; gradients live in the graph's own memory.
Random numbers come from the device's default generator, whose seed and position a replay reads anew.
See the notes on CUDA graphs in PyTorch's documentation.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from torch import Tensor

from nas_osr.errors import UserError

logger = logging.getLogger(__name__)

DEVICES = ("cuda",)  # on which steps can be captured
NOT_CAPTURED = "this step cannot be captured as a CUDA graph"
KNOWN_PACKAGES = ("nas_osr", "torch", "torchvision")  # whose modules compute all on the device
WARM_UP = 3  # plain calls first: optimisers make their states, libraries choose their kernels

Choice = Literal["auto", "on", "off"]
StepFunction = Callable[[Tensor, Tensor, Any], dict[str, Tensor]]  # images, labels, progress -> scalar terms


class CudaGraph:
    """Records a call on a stream of its own, and repeats its kernels on the same memory."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)
        self.graph = torch.cuda.CUDAGraph()

    def warm_up(self, call: Callable[[], None]) -> None:
        """Run a call on the stream of the recording: autograd remembers where a gradient was first summed."""
        current = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            call()
        current.wait_stream(self.stream)

    def capture(self, call: Callable[[], None]) -> None:
        """Record a call; what it computes is not there before `replay`.

        RuntimeError where it cannot be recorded: stream and random numbers are then as before.
        """
        device = self.stream.device
        current, generator = torch.cuda.current_stream(device), torch.cuda.default_generators[device.index]
        fresh, position = generator.clone_state(), generator.get_state()
        try:
            with torch.cuda.graph(self.graph, stream=self.stream):
                call()
        except RuntimeError:
            torch.cuda.set_stream(current)  # torch leaves it as it is where the end of the capture fails as well
            self.graph.reset()
            try:
                torch.rand(1, device=device)
                generator.set_state(position)
            except RuntimeError:  # it still takes itself for captured, as in PyTorch's issue 171263
                generator.graphsafe_set_state(fresh)
            raise

    def replay(self) -> None:
        """Compute what was recorded once more."""
        self.graph.replay()


class CapturedStep:
    """A step that is replayed; it is called as the plain one is, always with a batch of one shape.

    What it is to learn must have been restored before the first call, and stays where it is.

    Args:
        step: computes on the device alone: nothing in it is read or decided by Python.
        learner: whose gradients it computes.
        optimizers: that it steps; fused ones.
        graph: records it.
        must: whether a step that cannot be recorded ends the run with a UserError; else it says so and runs plainly.
    """

    def __init__(
        self, step: StepFunction, learner: Any, optimizers: Mapping[str, Any], graph: CudaGraph, must: bool = True
    ) -> None:
        self.step, self.learner, self.optimizers, self.must = step, learner, optimizers, must
        self.graph: CudaGraph | None = graph
        self.calls = 0
        self.batch: tuple[Tensor, Tensor] | None = None
        self.gradients: list[Tensor | None] = []  # those that the graph writes into, kept for as long as it is
        self.names: tuple[str, ...] = ()
        self.terms: Tensor | None = None

    def __call__(self, images: Tensor, labels: Tensor, progress: float) -> dict[str, Tensor]:
        """See `nas_osr.training.learner.weight_step`."""
        if self.batch is None:
            self.batch = torch.empty_like(images), torch.empty_like(labels)
            self.progress = torch.zeros((), dtype=torch.float64, device=images.device)
            for optimizer in self.optimizers.values():
                hold_rates(optimizer, images.device)
        for held, given in zip(self.batch, (images, labels), strict=True):
            if held.shape != given.shape:
                raise ValueError(f"a captured step takes batches of {tuple(held.shape)}, not {tuple(given.shape)}")
            held.copy_(given)
        self.progress.fill_(progress)
        self.calls += 1
        if self.graph is not None and self.calls == WARM_UP + 1:
            self._capture(self.graph)
        if self.graph is None:
            self._call()
        elif self.calls <= WARM_UP:
            self.graph.warm_up(self._call)
        else:
            self.graph.replay()
        assert self.terms is not None
        return dict(zip(self.names, self.terms.clone().unbind(), strict=True))

    def _capture(self, graph: CudaGraph) -> None:
        host = torch.get_rng_state()
        try:
            graph.capture(self._call)
        except RuntimeError as error:
            torch.set_rng_state(host)
            # a step that fails ends the capture with an error of its own, which says less
            cause = error.__context__ if isinstance(error.__context__, Exception) else error
            reason = str(cause).partition("\n")[0]
            if self.must:
                out_of_memory = isinstance(error, torch.cuda.OutOfMemoryError)
                raise error if out_of_memory else UserError(f"{NOT_CAPTURED} ({reason}): use --graphs off") from error
            logger.warning("--graphs auto: %s (%s); steps run plainly", NOT_CAPTURED, reason)
            self.graph = None
        else:
            self.gradients = [parameter.grad for parameter in self.learner.parameters()]

    def _call(self) -> None:
        assert self.batch is not None
        terms = self.step(*self.batch, lambda: self.progress)
        self.names = tuple(terms)
        self.terms = torch.stack([value.detach() for value in terms.values()])


def make_step(
    step: StepFunction, choice: Choice, fabric: Fabric, learner: Any, optimizers: Mapping[str, Any]
) -> StepFunction:
    """The step, captured where that is chosen and possible; why it is not possible is said.

    Args:
        choice: `auto` captures on a GPU what can be, and says nothing on a CPU.
        learner, optimizers: as Fabric wrapped them; the optimisers are those that the step updates.
    """
    if choice == "off" or (choice == "auto" and fabric.device.type not in DEVICES):
        return step
    reason = obstacle(fabric, learner, optimizers) or (unknown_parts(learner.module) if choice == "auto" else "")
    if reason:
        logger.warning("--graphs %s: %s; steps run plainly", choice, reason)
        return step
    return CapturedStep(step, learner, optimizers, CudaGraph(fabric.device), must=choice == "on")


def obstacle(fabric: Fabric, learner: Any, optimizers: Mapping[str, Any]) -> str:
    """Why a step cannot be captured; empty when it can."""
    objective = learner.module.objective
    if fabric.device.type not in DEVICES:
        return f"graphs are captured on CUDA devices, not on {fabric.device}"
    if fabric.world_size > 1:
        return "with several processes gradients are averaged between them"
    if len(objective.players) > 1:
        return f"objective {objective.name} has several players, {', '.join(objective.players)}"
    if not objective.capturable:
        return f"objective {objective.name} decides part of a step in Python"
    if not all(group.get("fused") for optimizer in optimizers.values() for group in optimizer.param_groups):
        return "an optimiser is not a fused one"
    return ""


def unknown_parts(learner: Any) -> str:
    """Why it is not known whether captured steps of a learner train as plain ones do; empty when it is.

    A module that another package or the user wrote may decide something anew in each step, which a graph would keep.
    """
    if learner.encoder._compiled_call_impl is not None:
        return "captured steps of a compiled encoder have not been compared with plain ones"
    for name, module in learner.named_modules():
        if type(module).__module__.partition(".")[0] not in KNOWN_PACKAGES:
            what = f"{type(module).__module__}.{type(module).__qualname__} ({name})"
            return f"captured steps with {what} have not been compared with plain ones: --graphs on captures them"
    return ""


# Learning rates ---------------------------------------------------------------------------------------------------


def set_rate(group: dict[str, Any], rate: float) -> None:
    """Set the learning rate of a group of parameters, where a captured step reads it, too.

    On a GPU it is a float32 number, as captured steps hold it: so they and plain steps take the same one.
    """
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = float(torch.tensor(rate, dtype=torch.float32)) if group["params"][0].is_cuda else rate


def hold_rates(optimizer: Any, device: torch.device) -> None:
    """Move the learning rates of an optimiser into tensors on the device; its `state_dict` stays as it was."""
    real = getattr(optimizer, "optimizer", optimizer)  # what Fabric has wrapped
    for group in real.param_groups:
        if not isinstance(group["lr"], Tensor):
            dtype = torch.float32 if device.type == "cuda" else torch.float64
            group["lr"] = torch.tensor(group["lr"], dtype=dtype, device=device)
            if "capturable" in group:
                group["capturable"] = True
    real._warned_capturable_if_run_uncaptured = True  # the warm-up's steps are not captured, as they should be
    real.register_state_dict_post_hook(plain_rates)


def plain_rates(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """A state with learning rates as numbers, from which plain steps can go on as well."""
    for group in state["param_groups"]:
        group["lr"] = float(group["lr"])
        if "capturable" in group:
            group["capturable"] = False
    return state
