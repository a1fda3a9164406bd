"""Operations of float64 scores that ONNX has not, or only roughly, from those that it has exactly.

ONNX Runtime computes no error function in float64, and torch's exporter writes log1p(x) as log(1 + x), say, which is 0
where it should be x: far from a class, scores would be infinite. Each of these agrees with torch's to about 1e-14.
Other types are left alone (NotImplemented): what the network itself computes stays what it is.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten

#: Chebyshev coefficients of log(erfc(z) exp(z^2) / t) in 4 t - 2, t = 2 / (2 + z), z >= 0 (Press et al., Numerical
#: Recipes, 3rd ed., section 6.2.2): a relative error below 1.2e-16 of erfc.
ERFC_CHEBYSHEV = (
    -1.3026537197817094, 6.4196979235649026e-1, 1.9476473204185836e-2, -9.561514786808631e-3, -9.46595344482036e-4,
    3.66839497852761e-4, 4.2523324806907e-5, -2.0278578112534e-5, -1.624290004647e-6, 1.303655835580e-6,
    1.5626441722e-8, -8.5238095915e-8, 6.529054439e-9, 5.059343495e-9, -9.91364156e-10, -2.27365122e-10, 9.6467911e-11,
    2.394038e-12, -6.886027e-12, 8.94487e-13, 3.13092e-13, -1.12708e-13, 3.81e-16, 7.106e-15, -1.523e-15, -9.4e-17,
    1.21e-16, -2.8e-17,
)  # fmt: skip
ERF_TERMS = 20  # of the series of erf on [0, 1]


def in_double(function: Callable[..., Tensor]) -> Callable[..., Any]:
    """The function where its first argument is float64, and NotImplemented elsewhere."""

    @functools.wraps(function)
    def decomposed(x: Tensor, *others: Any) -> Any:
        return function(x, *others) if x.dtype == torch.float64 else NotImplemented

    return decomposed


def log_erfc(z: Tensor) -> Tensor:
    """log(1 - erf(z)) of float64 z >= 0, without underflow."""
    t = 2.0 / (2.0 + z)
    y = 4.0 * t - 2.0
    d = before = torch.zeros_like(z)
    for coefficient in ERFC_CHEBYSHEV[:0:-1]:
        d, before = y * d - before + coefficient, d
    return t.log() - z * z + 0.5 * (ERFC_CHEBYSHEV[0] + y * d) - before


@in_double
def erfc(x: Tensor) -> Tensor:
    """1 - erf(x)."""
    tail = log_erfc(x.abs()).exp()
    return torch.where(x < 0.0, 2.0 - tail, tail)


@in_double
def erf(x: Tensor) -> Tensor:
    """The error function: its series near 0, and by what it lacks of 1 beyond."""
    small = x.clamp(-1.0, 1.0)
    total = torch.zeros_like(x)
    for n in reversed(range(ERF_TERMS)):
        total = total * small * small + (-1) ** n / (math.factorial(n) * (2 * n + 1))
    away = x.sign() * (1.0 - log_erfc(x.abs()).exp())
    return torch.where(x.abs() < 1.0, small * total * (2.0 / math.sqrt(math.pi)), away)


@in_double
def log_ndtr(x: Tensor) -> Tensor:
    """The logarithm of the normal distribution function."""
    tail = log_erfc(x.abs() * math.sqrt(0.5)) - math.log(2.0)  # of -|x|
    return torch.where(x < 0.0, tail, log1p(-tail.exp()))


@in_double
def log1p(x: Tensor) -> Tensor:
    """log(1 + x): the rounding of 1 + x is divided out again (Kahan)."""
    rounded = 1.0 + x
    near = rounded == 1.0
    step = torch.where(near, torch.ones_like(x), rounded - 1.0)
    infinite = rounded == math.inf
    return torch.where(near, x, torch.where(infinite, x, rounded.log() * (x / step)))


@in_double
def expm1(x: Tensor) -> Tensor:
    """exp(x) - 1: the rounding of exp(x) is divided out again (Kahan)."""
    grown = x.exp()
    near, flat = grown == 1.0, (grown == 0.0) | (grown == math.inf)
    logarithm = torch.where(near | flat, torch.ones_like(x), grown.log())
    return torch.where(near, x, torch.where(flat, grown - 1.0, (grown - 1.0) * (x / logarithm)))


@in_double
def logaddexp(x: Tensor, y: Tensor) -> Tensor:
    """log(exp(x) + exp(y)), where they are not both -inf."""
    return torch.maximum(x, y) + log1p((-(x - y).abs()).exp())


def where_scalar(condition: Tensor, x: Tensor, other: float) -> Any:
    """Where with a number, which the exporter takes for float32: 1e100 would be infinite."""
    if x.dtype != torch.float64:
        return NotImplemented
    return torch.where(condition, x, aten.scalar_tensor(other, dtype=x.dtype))


@in_double
def clamp(x: Tensor, least: float | None = None, most: float | None = None) -> Tensor:
    """Clamp to numbers, which the exporter takes for float32: a least of 1e-300 would be 0."""
    x = x if least is None else torch.maximum(x, aten.scalar_tensor(least, dtype=x.dtype))
    return x if most is None else torch.minimum(x, aten.scalar_tensor(most, dtype=x.dtype))


def cdist(x: Tensor, y: Tensor, p: float, compute_mode: int | None) -> Any:
    """Euclidean distances of rows, [B, D] and [C, D] to [B, C]."""
    if p != 2.0:
        return NotImplemented
    return (x.unsqueeze(-2) - y.unsqueeze(-3)).square().sum(dim=-1).sqrt()


def stable_sort(x: Tensor, *, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    """Sorting keeps the order of equal values in ONNX: TopK takes the first."""
    return torch.sort(x, dim, descending)


def clamp_max(x: Tensor, most: float) -> Any:
    """Clamp from above."""
    return clamp(x, None, most)


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    aten._cdist_forward.default: cdist,
    aten.clamp.default: clamp,
    aten.clamp_min.default: clamp,
    aten.clamp_max.default: clamp_max,
    aten.erf.default: erf,
    aten.erfc.default: erfc,
    aten.expm1.default: expm1,
    aten.log1p.default: log1p,
    aten.logaddexp.default: logaddexp,
    aten.sort.stable: stable_sort,
    aten.special_log_ndtr.default: log_ndtr,
    aten.where.ScalarOther: where_scalar,
}


def scalar_translation() -> dict[Any, Callable[..., Any]]:
    """How the exporter is to write numbers among float64 values: it rounds them to float32 by itself."""
    import onnx_ir
    from onnxscript import opset18

    def scalar_tensor(s: float, dtype: int = 1, layout: str = "", device: str = "", pin_memory: bool = False) -> Any:
        value: Any = onnx_ir.tensor(s, dtype=onnx_ir.DataType(dtype))
        return opset18.Constant(value=value)

    return {aten.scalar_tensor.default: scalar_tensor}
