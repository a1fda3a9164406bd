"""Faster ways to the same values: convolutions of tiny maps, and gradients in the layout of what they belong to.

The networks see three names: `Convolution`, `keep_layout` and `subsample`. Each has a plain form of one line:
`nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False)`, the maps themselves, and a slice.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALL_SIDE = 2  # a 3x3 window around any pixel of a map as small as this covers all of it


class Convolution(nn.Conv2d):
    """A convolution with "same" padding and no bias, which trains faster on tiny maps.

    On maps of at most 2x2 pixels every output of a 3x3 convolution depends on every input, so that it is a plain matrix
    product: of 36 products a pair of channels 16 are not with padding, and torch takes the weights' gradient at a
    quarter of the speed of a matrix product there. Only steps on a CPU in float32 go this way: nothing else was
    measured, and inference, with as many multiplications as the formula of a convolution says, is fast as it is.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int) -> None:
        super().__init__(channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C_out, ceil(H/stride), ceil(W/stride)]."""
        return dense_convolution(x, self.weight, self.stride[0]) if self._is_dense(x) else super().forward(x)

    def _is_dense(self, x: Tensor) -> bool:
        return (
            self.kernel_size == (3, 3)
            and max(x.shape[2:]) <= SMALL_SIDE
            and x.device.type == "cpu"
            and torch.is_grad_enabled()
            and x.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
        )


def dense_convolution(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """`F.conv2d` with padding 1 of maps [B, C_in, H, W] of at most 2x2 pixels and weights [C_out, C_in, 3, 3]."""
    height, width = x.shape[2:]
    rows, columns = -(-height // stride), -(-width // stride)
    matrix: Tensor = _DenseWeight.apply(weight, height, width, stride)
    y = F.linear(x.permute(0, 2, 3, 1).reshape(len(x), -1), matrix)
    return y.view(len(x), rows, columns, -1).permute(0, 3, 1, 2)


class _DenseWeight(torch.autograd.Function):
    """The matrix of a convolution of small maps, pixels before channels as in channels_last.

    Indexing would do, but its backward pass fills and adds a whole gradient for every window.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, height: int, width: int, stride: int) -> Tensor:
        channels_out, channels_in = weight.shape[:2]
        ctx.shape = (-(-height // stride), -(-width // stride), channels_out, height, width, channels_in)
        ctx.stride = stride
        matrix = weight.new_empty(ctx.shape)
        taps = weight.permute(0, 2, 3, 1)
        for row, column, window in _windows(ctx.shape, stride):
            matrix[row, column] = taps[window]
        return matrix.flatten(3).flatten(0, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        gradient = gradients[0].view(ctx.shape)
        taps = gradient.new_zeros(ctx.shape[2], 3, 3, ctx.shape[5])
        for row, column, window in _windows(ctx.shape, ctx.stride):
            taps[window] += gradient[row, column]
        return taps.permute(0, 3, 1, 2), None, None, None


def _windows(shape: tuple[int, ...], stride: int) -> list[tuple[int, int, tuple[slice, slice, slice]]]:
    """Each output pixel with the taps that it lays over the map, of weights [C_out, 3, 3, C_in]."""
    rows, columns, _, height, width, _ = shape
    return [
        (row, column, (slice(None), slice(1 - stride * row, 1 - stride * row + height),
                       slice(1 - stride * column, 1 - stride * column + width)))
        for row in range(rows)
        for column in range(columns)
    ]  # fmt: skip


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
        ctx.format = _memory_format(maps)
        return maps.view_as(maps)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0].contiguous(memory_format=ctx.format)


def _memory_format(maps: Tensor) -> torch.memory_format:
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
        ctx.shape, ctx.start, ctx.format = x.shape, start, _memory_format(x)
        return x[:, :, start::2, start::2]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        result = torch.empty(
            ctx.shape, dtype=gradients[0].dtype, device=gradients[0].device, memory_format=ctx.format
        ).zero_()
        result[:, :, ctx.start :: 2, ctx.start :: 2] = gradients[0]
        return result, None
