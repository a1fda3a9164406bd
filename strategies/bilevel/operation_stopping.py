"""Operation-level early stopping (OLES, Jiang et al. 2023): an operation that fits the training images alone stops.

Operations with weights learn the training half by heart, look worse on the other half, and lose to those without. So
the weights of an operation are frozen for good when its gradients on the two halves stop pointing the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F

from nas_osr.ranks.replicas import average
from nas_osr.search_spaces.supernet import Supernet


class OperationStopping:
    """Looks at the gradients of a supernet's operations, and freezes them.

    The similarity of an operation is the cosine between its gradients on a batch of the weight half and one of the
    other half, each as one vector (the authors' code takes the mean over its tensors, along output channels). Its mean
    over the last `window` pairs in which it had both decides; then the next window begins.

    Args:
        below: the mean under which it is frozen.

    Attributes:
        operations: those with weights, by cell and name; the forms of a cell are operations of their own.
        frozen: which of them have been.
    """

    def __init__(self, supernet: Supernet, fabric: Fabric, below: float, window: int) -> None:
        self.fabric, self.below, self.window = fabric, below, window
        self.operations: dict[str, list[nn.Parameter]] = {}
        for form, cells in (("keep", supernet.network.keep), ("halve", supernet.network.halve)):
            for cell, mixed in cells.items():
                for name in mixed.names:
                    if weights := [*mixed[name].parameters()]:
                        self.operations[f"{cell}_{form} {name}"] = weights
        self.weights = [weight for weights in self.operations.values() for weight in weights]
        self.totals = torch.zeros(len(self.operations), dtype=torch.double)
        self.counts = torch.zeros(len(self.operations), dtype=torch.double)
        self.frozen = torch.zeros(len(self.operations), dtype=torch.bool)
        self.seen: dict[nn.Parameter, Tensor] = {}

    def learning(self) -> list[nn.Parameter]:
        """The weights of the operations that are not frozen."""
        return [weight for weight in self.weights if weight.requires_grad]

    def look(self, gradients: Mapping[nn.Parameter, Tensor]) -> None:
        """Take the gradients on a batch of the architecture's half; those of the other are the weights' own by then."""
        self.seen = dict(gradients)

    def decide(self) -> None:
        """After both steps of a pair: compare, and freeze what has come to the end of a window below the threshold."""
        found = [self.similarity(weights) for weights in self.operations.values()]
        has = torch.tensor([cosine is not None for cosine in found], dtype=torch.double)
        cosines = [torch.zeros((), device=self.fabric.device) if cosine is None else cosine for cosine in found]
        values = torch.stack(cosines).double() if cosines else torch.zeros(0, dtype=torch.double)
        average(self.fabric, [values])
        self.totals += values.cpu() * has
        self.counts += has
        ended = self.counts >= self.window
        self.frozen |= ended & (self.totals < self.below * self.counts)
        self.totals[ended], self.counts[ended] = 0, 0
        self.freeze()

    def similarity(self, weights: list[nn.Parameter]) -> Tensor | None:
        """The cosine [] of an operation; None where a gradient is missing."""
        pairs = [(self.seen[w], w.grad) for w in weights if w.requires_grad and w in self.seen and w.grad is not None]
        if not pairs:
            return None
        one, other = (torch.cat([side.flatten() for side in sides]).float() for sides in zip(*pairs, strict=True))
        return F.cosine_similarity(one, other, dim=0)

    def freeze(self) -> None:
        """Let the weights of frozen operations learn no more."""
        for frozen, weights in zip(self.frozen.tolist(), self.operations.values(), strict=True):
            if frozen:
                for weight in weights:
                    weight.requires_grad_(False)
                    weight.grad = None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has of it."""
        return {"totals": self.totals.clone(), "counts": self.counts.clone(), "frozen": self.frozen.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.totals, self.counts, self.frozen = (state[name].clone() for name in ("totals", "counts", "frozen"))
        self.freeze()
