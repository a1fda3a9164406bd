"""Switches of an encoder that change what a step costs, and nothing that it computes."""

from __future__ import annotations

import torch
from torch import nn

from nas_osr.errors import UserError


def prepare_encoder(encoder: nn.Module, *, checkpointing: bool, compiled: bool) -> None:
    """Set an encoder's switches. Names and values of its state stay as they are, so checkpoints fit either way.

    Args:
        checkpointing: see `nas_osr.search_spaces.blocks.run_block`.
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
