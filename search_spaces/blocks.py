"""How an encoder is run: block by block, with or without keeping what is inside a block, compiled or not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.checkpoint import checkpoint

from nas_osr.errors import UserError


def run_block(block: nn.Module, x: Any, checkpointing: bool) -> Any:
    """block(x); with `checkpointing` its inside is computed again in the backward pass instead of being kept.

    Values, gradients and BatchNorm's running statistics are the same either way (Chen et al. 2016): the second pass
    draws the same random numbers, records no statistics, and finds weights and statistics as frozen as the first did.
    """
    if not checkpointing or not torch.is_grad_enabled():
        return block(x)
    random = any(isinstance(layer, _DropoutNd) for layer in block.modules())
    learns = [(parameter, parameter.requires_grad) for parameter in block.parameters()]
    records = [(norm, norm.track_running_stats) for norm in block.modules() if isinstance(norm, _BatchNorm)]

    def contexts() -> tuple[Any, Any]:
        return contextlib.nullcontext(), _second_pass(learns, records)

    return checkpoint(block, x, use_reentrant=False, preserve_rng_state=random, context_fn=contexts)


@contextlib.contextmanager
def _second_pass(learns: list[tuple[nn.Parameter, bool]], records: list[tuple[_BatchNorm, bool]]) -> Iterator[None]:
    """Inside: parameters take a gradient, and BatchNorm records, where they did in the first pass; but into copies.

    Recording nothing at all would do for the values, but torch wants both passes to keep the same tensors.
    """
    thawed = [(parameter, parameter.requires_grad) for parameter, _ in learns]
    recorded = [(norm, norm.track_running_stats, dict(norm._buffers)) for norm, _ in records]
    for parameter, flag in learns:
        parameter.requires_grad_(flag)
    for norm, flag in records:
        norm.track_running_stats = flag
        norm._buffers.update({name: None if value is None else value.clone() for name, value in norm._buffers.items()})
    try:
        yield
    finally:
        for parameter, flag in thawed:
            parameter.requires_grad_(flag)
        for norm, flag, buffers in recorded:
            norm.track_running_stats = flag
            norm._buffers.update(buffers)


# Switches of an encoder that change what a step costs, and nothing that it computes


def prepare_encoder(encoder: nn.Module, *, checkpointing: bool, compiled: bool) -> None:
    """Set an encoder's switches. Names and values of its state stay as they are, so checkpoints fit either way.

    Args:
        checkpointing: see `run_block`.
        compiled: call the encoder through torch.compile from now on, but for inference (`Learner.infer`).
    """
    if checkpointing:
        for module in encoder.modules():
            if hasattr(type(module), "checkpointing"):
                module.checkpointing = True  # type: ignore[assignment]
    if compiled:
        encoder.compile(dynamic=False)


def check_compiler(device: torch.device) -> None:
    """UserError unless torch.compile works on this device; it is tried, on a small function."""
    try:
        torch.compile(lambda x: (x.sin() + 1).sum())(torch.zeros(8, device=device))
    except Exception as error:  # whatever is missing, each compiler says it in its own class
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"compile: torch.compile does not work on {device} here ({reason}): leave it out") from error
