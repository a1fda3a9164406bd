"""An average of the weights over the steps of a training, which is judged and saved instead of the last step's weights.

Running statistics of BatchNorm are averaged with them (as timm does), so that they belong together without a further
pass over the images. A captured step is not changed: the average reads the weights between two steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """The exponential moving average (Polyak and Juditsky 1992) of a module's floating-point state.

    Step t moves it by 1 - min(decay, (1 + t) / (10 + t)) towards the weights, so that a short training's average is not
    that of its first steps.

    Attributes:
        module: whose state is averaged, on its device; its tensors must stay where they are.
        decay: in (0, 1).
        steps: how many have been averaged.
        weights: the average by name of the state; empty before the first step.
    """

    def __init__(self, module: Any, decay: float) -> None:
        self.module, self.decay = module, decay
        self.steps = 0
        self.weights: dict[str, Tensor] = {}

    def current(self) -> dict[str, Tensor]:
        """The module's own tensors by name, without gradients; one that has two names by the first."""
        own = {name: value for name, value in self.module.state_dict().items() if value.is_floating_point()}
        first = {(value.data_ptr(), value.shape): name for name, value in reversed(own.items())}
        return {name: value for name, value in own.items() if first[value.data_ptr(), value.shape] == name}

    def update(self) -> None:
        """Take in the weights after a step."""
        current = self.current()
        if not self.weights:
            self.weights = {name: value.clone() for name, value in current.items()}
        else:
            decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
            get_ema_multi_avg_fn(decay)([self.weights[name] for name in current], list(current.values()), 0)
        self.steps += 1

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the module has the average, and the average what the module had."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()

    def exchange(self) -> None:
        """Change the average for the module's weights, bit for bit; nothing before the first step."""
        current = self.current() if self.weights else {}
        with torch.no_grad():
            for name, value in current.items():
                held = self.weights[name].clone()
                self.weights[name].copy_(value)
                value.copy_(held)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"steps": self.steps, "weights": self.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned, on the module's device."""
        current = self.current()
        self.steps = state["steps"]
        self.weights = {name: value.to(current[name].device, copy=True) for name, value in state["weights"].items()}
