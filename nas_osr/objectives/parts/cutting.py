"""Where a network can be cut in two, whatever it is made of, and running it with images mixed at the cut.

A module is a cut where everything that the heads see of an image has passed through what the module returned, once.
Autograd tells: with that detached, no gradient leads from the heads' features to the images.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from nas_osr.data.sources.base import Shape
from nas_osr.objectives.parts.freezing import frozen
from nas_osr.objectives.parts.pooling import pool


def find_middle(encoder: nn.Module, image_shape: Shape) -> str:
    """The name of the module nearest to the middle of an encoder at which it can be cut; "": only its images are left.

    The middle is where half of the layers with weights have been, and the last module there. A supernet, whose paths
    lie beside each other, can be cut behind its stem alone. Nothing is changed, and no value is looked at.
    """
    returned: list[tuple[str, int, list[Any]]] = []  # name, layers with weights so far, nodes of autograd's graph
    layers = 0

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            nonlocal layers
            weight = module._parameters.get("weight")
            layers += weight is not None and weight.dim() > 1
            parts = output if isinstance(output, tuple | list) else (output,)
            if all(isinstance(part, Tensor) and part.grad_fn is not None for part in parts):
                returned.append((name, layers, [part.grad_fn for part in parts]))

        return hook

    handles = [module.register_forward_hook(note(name)) for name, module in encoder.named_modules() if name]
    try:
        end = _features(encoder, image_shape).grad_fn
    finally:
        for handle in handles:
            handle.remove()
    order = sorted(range(len(returned)), key=lambda place: (abs(2 * returned[place][1] - layers), -place))
    calls = Counter(name for name, _, _ in returned)
    for name, _, nodes in (returned[place] for place in order):
        # a module that returns its input passes this, and may not be the only way
        if calls[name] == 1 and not _leads_back(end, nodes):
            with _replaced(encoder, name, Tensor.detach):
                if not _features(encoder, image_shape).requires_grad:
                    return name
    return ""


def _features(encoder: nn.Module, image_shape: Shape) -> Tensor:
    """What the heads see [1, D] of an empty image, with a graph that leads to it and to nothing else."""
    training, example = encoder.training, next(encoder.parameters(), torch.zeros(()))
    encoder.eval()
    try:
        with torch.enable_grad(), frozen(encoder, encoder.parameters()), _plainly(encoder):
            return pool(encoder(torch.zeros(1, *image_shape, device=example.device, requires_grad=True)))
    finally:
        encoder.train(training)


def _leads_back(end: Any, without: list[Any]) -> bool:
    """Whether a way leads from a node of the graph to an input that takes a gradient, past none of these nodes."""
    seen, pending = set(without), [end]
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        if not node.next_functions:
            return True
        seen.add(node)
        pending += [following for following, _ in node.next_functions]
    return False


@contextlib.contextmanager
def mixed_at(encoder: nn.Module, name: str, share: float, mates: Tensor) -> Iterator[None]:
    """Inside: what the module of this name returns of image i is `share` of it, and the rest of what it is of mates[i].

    Args:
        name: from `find_middle`, of a module.
        mates: [B] int64, for batches of B images.
    """
    with _replaced(encoder, name, lambda rows: mix_with(rows, share, mates)), _plainly(encoder):
        yield


def mix_with(rows: Tensor, share: float, mates: Tensor) -> Tensor:
    """share * rows[i] + (1 - share) * rows[mates[i]] of rows [B, ...]."""
    return share * rows + (1.0 - share) * rows[mates]


@contextlib.contextmanager
def _replaced(encoder: nn.Module, name: str, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside: every tensor that the module of this name returns is replaced by what `change` makes of it."""

    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        if isinstance(output, Tensor):
            return change(output)
        return type(output)([change(part) for part in output])

    handle = encoder.get_submodule(name).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def _plainly(encoder: nn.Module) -> Iterator[None]:
    """Inside: an encoder computes what is written, once: not compiled, no block again in the backward pass."""
    again = [module for module in encoder.modules() if getattr(module, "checkpointing", False)]
    compiled = encoder._compiled_call_impl is not None
    for module in again:
        module.checkpointing = False  # type: ignore[assignment]
    try:
        with torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext():
            yield
    finally:
        for module in again:
            module.checkpointing = True  # type: ignore[assignment]
