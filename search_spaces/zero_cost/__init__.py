"""Scores of networks that nobody has trained, by name: what a glance at weights, a batch and gradients says of them.

Each is a function of (network, images, labels) that leaves the network alone. Larger is meant to be better, which for
parameters and MACs is no more than a habit of larger networks.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from nas_osr.errors import UserError, show
from nas_osr.plugins import load

if TYPE_CHECKING:
    from torch import Tensor, nn

SCORES: dict[str, str] = {
    "parameters": "nas_osr.search_spaces.zero_cost.counts:count_parameters",
    "macs": "nas_osr.search_spaces.zero_cost.counts:count_macs_of_encoder",
    "synflow": "nas_osr.search_spaces.zero_cost.synflow:synflow",
    "naswot": "nas_osr.search_spaces.zero_cost.naswot:naswot",
    "zico": "nas_osr.search_spaces.zero_cost.zico:zico",
}


def zero_cost(name: str, network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The score called `name` of an encoder with fresh weights.

    Args:
        network: turns images into `nas_osr.outputs.Features`; it is left as it is.
        images: [B, C, H, W] float in [0, 1], known training images; 32 to 128 of them. What of a network follows from
            training images follows from these, where it has seen none.
        labels: [B] whole numbers from 0.

    Raises:
        UserError: there is no such score.
    """
    if name not in SCORES:
        raise UserError(f"no zero-cost score {show(name)}: choose from {', '.join(SCORES)}")
    return float(load(SCORES[name])(_prepared(network, images), images, labels))


def _prepared(network: nn.Module, images: Tensor) -> nn.Module:
    """The network, or a copy of it whose layers have looked at images."""
    import torch

    from nas_osr.training.prepared import unprepared_layers

    if unprepared_layers(network):
        network = copy.deepcopy(network)
        with torch.no_grad():
            for layer in unprepared_layers(network):
                layer.prepare(iter([network.normalise(images)]))  # type: ignore[operator]
    return network
