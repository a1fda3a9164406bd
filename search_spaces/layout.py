"""Gradients in the layout of what they belong to: the same values, sooner.

The networks see two names, `keep_layout` and `subsample`. Each has a plain form of one line: the maps themselves, and a
slice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def keep_layout(maps: Tensor) -> Tensor:
    """The same maps, whose gradient comes back in their own memory format.

    Flattening or pooling channels_last maps sends back a gradient in another order. Through residual connections it
    would reach every layer, and elementwise operations on two orders at once take several times as long.
    """
    # a compiled network has the layouts that the compiler chooses
    return maps if torch.compiler.is_compiling() else _KeepLayout.apply(maps)  # type: ignore[no-any-return]


class _KeepLayout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        ctx.format = memory_format(maps)
        return maps.view_as(maps)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0].contiguous(memory_format=ctx.format)


def memory_format(maps: Tensor) -> torch.memory_format:
    """In which maps [B, C, H, W] lie."""
    last = maps.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def subsample(x: Tensor, start: int) -> Tensor:
    """x[:, :, start::2, start::2] of maps [B, C, H, W], whose gradient comes back in the memory format of x."""
    if torch.compiler.is_compiling():
        return x[:, :, start::2, start::2]
    return _Subsample.apply(x, start)  # type: ignore[no-any-return]


class _Subsample(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, start: int) -> Tensor:
        ctx.shape, ctx.start, ctx.format = x.shape, start, memory_format(x)
        return x[:, :, start::2, start::2]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        result = torch.empty(
            ctx.shape, dtype=gradients[0].dtype, device=gradients[0].device, memory_format=ctx.format
        ).zero_()
        result[:, :, ctx.start :: 2, ctx.start :: 2] = gradients[0]
        return result, None
