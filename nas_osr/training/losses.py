"""Loss terms, summed on the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from nas_osr.errors import UserError
from nas_osr.ranks.replicas import average


class LossMeter:
    """Sums loss terms on the device and reads them once, so that no step waits for the device."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Count the terms of one step."""
        for name, value in losses.items():
            value = value.detach()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1

    def state_dict(self) -> dict[str, Any]:
        """What has been counted so far."""
        return {"sums": self.sums, "counts": self.counts}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on from what `state_dict` returned, on this device."""
        self.sums = {name: value.to(device) for name, value in state["sums"].items()}
        self.counts = dict(state["counts"])

    def average(self, fabric: Fabric) -> None:
        """Replace the sums by their means over all ranks."""
        average(fabric, self.sums.values())

    def means(self) -> dict[str, float]:
        """Mean of each term over the steps; UserError when one is not finite, by its name."""
        means = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        bad = [name for name, value in means.items() if value - value != 0.0]
        if bad:
            raise UserError(
                f"training diverged: loss term {bad[0]!r} is {means[bad[0]]}; lower the learning rate or its weight"
            )
        return means
