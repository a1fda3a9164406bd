"""The last stage of a narrow decoder, fast on a CPU: the same function computed on a grid of half the resolution.

A transposed 3x3 convolution of stride 2 makes four pixels of every position, one for each phase (row and column even or
odd). They are what a 2x2 convolution with four times the channels gives, and everything after it that treats pixels
alike can stay on the coarse grid. Vector units want 8 or 16 channels next to each other in memory, where a decoder's
last maps have 4: torch's kernels for those take several times as long, although the coarse grid needs more arithmetic
(16/9 of the transposed convolution's, four times that of the 1x1 convolutions, most of it with zeros). Channel c of
phase p (0 to 3, by row, then column) is at index p C + c.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

PHASES = 4
NARROW = 4  # channels of a stage's result; with more, the arithmetic with zeros costs what the layout gains
ENOUGH = 8192  # positions of the coarse grid in a batch; with fewer, the longer chain of calls costs what they gain


def is_narrow(stage: nn.Sequential, x: Tensor) -> bool:
    """Whether the phases pay: few channels and many positions, float32, on a CPU.

    x: [B, C, H, W], the stage's input.
    """
    convolution = stage[0]
    assert isinstance(convolution, nn.ConvTranspose2d)
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return plain and convolution.out_channels <= NARROW and x.numel() // x.shape[1] >= ENOUGH


def narrow_tail(stage: nn.Sequential, to_image: nn.Sequential, x: Tensor) -> Tensor:
    """`to_image(stage(x))` by phases: the same values, gradients and running statistics but for rounding.

    Gradients are differentiable once.

    Args:
        stage: transposed 3x3 convolution (stride 2, padding 1, output padding 1, no bias), BatchNorm, LeakyReLU.
        to_image: 1x1 convolution, LeakyReLU, 1x1 convolution.
        x: [B, C, H, W].

    Returns:
        [B, 4 c, H, W], channels last: the pixels by phase, which `interleave` puts into their places.
    """
    convolution, norm, activation = stage
    first, between, last = to_image
    x = x.contiguous(memory_format=torch.channels_last)
    y = F.conv2d(F.pad(x, (0, 1, 0, 1)), phase_weight(convolution.weight))  # type: ignore[arg-type]
    y = activation(phase_batch_norm(y, norm))  # type: ignore[arg-type]
    y = between(pointwise(y, first))  # type: ignore[arg-type]
    return pointwise(y, last)  # type: ignore[arg-type]


def phase_weight(weight: Tensor) -> Tensor:
    """The 2x2 kernel [4 c, C, 2, 2] of a transposed convolution's [C, c, 3, 3].

    Along a side, output 2i is x_i w_1 and output 2i + 1 is x_i w_2 + x_{i+1} w_0.
    """
    taps = weight.new_zeros(2, 2, 3)  # phase, offset of the input, tap of the kernel
    taps[0, 0, 1] = taps[1, 0, 2] = taps[1, 1, 0] = 1.0
    kernel = torch.einsum("ckyx,aiy,bjx->abkcij", weight, taps, taps)
    return kernel.flatten(0, 2).contiguous(memory_format=torch.channels_last)


def pointwise(x: Tensor, convolution: nn.Conv2d) -> Tensor:
    """A 1x1 convolution of every phase of x [B, 4 C, H, W]: [B, 4 c, H, W]."""
    weight = torch.block_diag(*[convolution.weight.flatten(1)] * PHASES)[:, :, None, None]
    bias = None if convolution.bias is None else convolution.bias.repeat(PHASES)
    return F.conv2d(x, weight, bias)


def interleave(x: Tensor) -> Tensor:
    """The phases [B, 4 c, H, W] as pixels [B, c, 2H, 2W]: `pixel_shuffle` for phases in front of channels."""
    batch, channels, height, width = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(batch, height, width, 2, channels // 2)
    image = rows.transpose(2, 3).reshape(batch, 2 * height, 2 * width, channels // PHASES)
    return image.permute(0, 3, 1, 2)


def split_phases(images: Tensor) -> Tensor:
    """Images [B, c, 2H, 2W] by phases, [B, 4 c, H, W], channels last: what `interleave` undoes."""
    batch, channels, height, width = images.shape
    rows = images.permute(0, 2, 3, 1).reshape(batch, height // 2, 2, width // 2, 2 * channels)
    return rows.transpose(2, 3).reshape(batch, height // 2, width // 2, PHASES * channels).permute(0, 3, 1, 2)


def phase_batch_norm(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """What `norm` does, for x [B, 4 C, H, W] in which the phases of a channel share their statistics."""
    weight, bias = norm.weight.repeat(PHASES), norm.bias.repeat(PHASES)
    if not norm.training and norm.running_mean is not None and norm.running_var is not None:
        statistics = norm.running_mean.repeat(PHASES), norm.running_var.repeat(PHASES)
        return F.batch_norm(x, *statistics, weight, bias, training=False, eps=norm.eps)
    result, mean, variance = PhaseBatchNorm.apply(x, weight, bias, norm.eps)
    if norm.training and norm.track_running_stats:
        record(norm, mean, variance, x.numel() // norm.num_features)
    return result


@torch.no_grad()
def record(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Move the running statistics as `norm` itself does: by its momentum, or to the mean of all batches without one.

    Args:
        mean, variance: [C] of a batch, the variance divided by `count`.
        count: values of each channel in the batch.
    """
    assert norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None
    norm.num_batches_tracked += 1
    momentum = 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean, momentum)
    norm.running_var.lerp_(variance * (count / (count - 1)), momentum)


class PhaseBatchNorm(torch.autograd.Function):
    """BatchNorm by the statistics of a batch, taken over images, positions and phases.

    Takes x [B, 4 C, H, W], weight and bias [4 C] and epsilon; returns the result, and mean and variance [C].
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        # torch's own kernel gives the statistics of each phase; the variance of all is theirs, and that of their means
        means, variances = torch.batch_norm_update_stats(x, None, None, 0.0)
        mean = means.view(PHASES, -1).mean(0)
        variance = (variances + (means - mean.repeat(PHASES)).square()).view(PHASES, -1).mean(0)
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance)
        statistics = mean.repeat(PHASES), variance.repeat(PHASES)
        return F.batch_norm(x, *statistics, weight, bias, training=False, eps=eps), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, variance = ctx.saved_tensors
        means, variances = mean.repeat(PHASES), variance.repeat(PHASES)
        # with the statistics held fixed: dy weight / std, the sums over dy x^ and over dy
        dx, product, total = torch.ops.aten.native_batch_norm_backward(
            gradients[0], x, weight, means, variances, None, None, False, ctx.eps, [True, True, True]
        )
        # dx = weight / std (dy - mean dy - x^ mean(dy x^)), where x^ = (x - mean) / std
        count = x.numel() // len(mean)
        inverse = torch.rsqrt(variances + ctx.eps)
        slope = -weight * inverse.square() * pool_phases(product) / count
        shift = -weight * inverse * pool_phases(total) / count - slope * means
        dx.addcmul_(x, slope[:, None, None]).add_(shift[:, None, None])
        return dx, product, total, None


def pool_phases(sums: Tensor) -> Tensor:
    """[4 C] -> [4 C]: for every phase the sum over all phases of its channel."""
    return sums.view(PHASES, -1).sum(0).repeat(PHASES)
