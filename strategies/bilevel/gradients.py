"""Gradients by leaf, at whatever precision a search is computed in."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_fabric import Fabric
from torch import Tensor


def gradients(fabric: Fabric, loss: Tensor, leaves: Sequence[Tensor]) -> list[Tensor | None]:
    """d loss / d leaf, None where a leaf has no part in it; their `grad` stays what it is.

    Fabric allows torch.autograd.grad at full precision alone.

    Args:
        loss: [].
    """
    before = [leaf.grad for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None
    fabric.backward(loss, inputs=list(leaves))
    found = [leaf.grad for leaf in leaves]
    for leaf, gradient in zip(leaves, before, strict=True):
        leaf.grad = gradient
    return found
