"""How large a network out of a space is: a line for people. No weights are made for that."""

from __future__ import annotations

import torch

from nas_osr.cost.steps import count_flops
from nas_osr.data.sources.base import Shape
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.network import DiscreteNetwork


def describe_architecture(architecture: Architecture, image_shape: Shape) -> str:
    """E.g. "network: 0.64M parameters, 2.50M multiply-accumulates an image of 3x32x32", without heads.

    UserError: a user's own class is not loaded.
    """
    channels = image_shape[0]
    with torch.device("meta"):
        network = DiscreteNetwork(architecture, channels, (0.0,) * channels, (1.0,) * channels).eval()
    images = torch.empty(1, *image_shape, device="meta")
    with torch.no_grad():
        macs = count_flops(lambda: network(images)) // 2
    parameters = sum(parameter.numel() for parameter in network.parameters())
    size = "x".join(map(str, image_shape))
    return f"network: {_short(parameters)} parameters, {_short(macs)} multiply-accumulates an image of {size}"


def _short(number: int) -> str:
    for factor, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= factor:
            return f"{number / factor:.2f}{letter}"
    return str(number)
