"""Coefficients that rise with the training, as numbers or, in a captured step, as scalars on the device."""

from __future__ import annotations

from torch import Tensor


def risen(progress: float | Tensor, share: float) -> float | Tensor:
    """How far a coefficient has risen, in [0, 1]: linearly over the first `share` of the training; 0 is at once."""
    if not share:
        return 1.0
    ratio = progress / share
    return ratio.clamp(max=1.0) if isinstance(ratio, Tensor) else min(1.0, ratio)


def weighted(coefficient: float | Tensor, term: Tensor) -> Tensor:
    """coefficient * term, in the term's type."""
    return (coefficient.to(term.dtype) if isinstance(coefficient, Tensor) else coefficient) * term
