"""Muon for the convolutions of a network, and AdamW for everything else, at one learning rate."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import torch
from torch import nn


class Muon(torch.optim.Optimizer):
    """`torch.optim.Muon` on each convolution's weights as a matrix [filters, what a filter sees], AdamW on the rest.

    Muon (Jordan 2024) makes the momentum of a matrix orthogonal before it steps along it. Its step is scaled to the
    size of AdamW's, so that one learning rate serves both (Liu et al. 2025, "Muon is scalable for LLM training", eq.
    4), and like there the weight decay is decoupled.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, momentum: float, nesterov: bool, weight_decay: float
    ) -> None:
        super().__init__(parameters, {"lr": lr})
        self.settings: dict[str, Any] = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
        }
        everything = [parameter for group in self.param_groups for parameter in group["params"]]
        self.filters = [parameter for parameter in everything if parameter.dim() == 4]
        self.others = [parameter for parameter in everything if parameter.dim() != 4]

    @cached_property
    def parts(self) -> list[torch.optim.Optimizer]:
        """Muon over copies of the filters as matrices, and AdamW; made when all parameters are on their device."""
        copies = [nn.Parameter(filters.detach().flatten(1).clone()) for filters in self.filters]
        made: list[torch.optim.Optimizer] = []
        if copies:
            made.append(torch.optim.Muon(copies, adjust_lr_fn="match_rms_adamw", **self.settings))
        if self.others:
            lr, decay = self.settings["lr"], self.settings["weight_decay"]
            made.append(torch.optim.AdamW(self.others, lr=lr, weight_decay=decay, fused=True))
        return made

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step along the gradients that there are, at the learning rate of the parameters' group."""
        copies = self.parts[0].param_groups[0]["params"] if self.filters else []
        for copy, filters in zip(copies, self.filters, strict=True):
            copy.copy_(filters.flatten(1))
            copy.grad = None if filters.grad is None else filters.grad.flatten(1)
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = self.param_groups[0]["lr"]
            part.step()
        for copy, filters in zip(copies, self.filters, strict=True):
            filters.copy_(copy.view_as(filters))
        self.state.update({key: value for part in self.parts for key, value in part.state.items()})  # to be counted

    def state_dict(self) -> dict[str, Any]:
        """The states of both."""
        return {"lr": self.param_groups[0]["lr"], "parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.param_groups[0]["lr"] = state_dict["lr"]
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
