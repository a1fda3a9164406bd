"""How large a network out of a space is: a line for people. No weights are made for that."""

from __future__ import annotations

import logging

import torch

from nas_osr.cost.steps import count_flops
from nas_osr.data.sources.base import Shape
from nas_osr.errors import UserError
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.network import DiscreteNetwork

logger = logging.getLogger(__name__)


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


def sizes_of(architecture: Architecture) -> str:
    """Parameters and multiply-accumulates of the network on images as in its search; "" where that is not known.

    Where an operation of a user's own is not loaded, which a picture does not need, a line says so.
    """
    shape = architecture.found.get("image_shape")
    if not (isinstance(shape, list) and len(shape) == 3 and all(type(n) is int and 0 < n < 4096 for n in shape)):
        return ""
    try:
        return describe_architecture(architecture, (shape[0], shape[1], shape[2])).removeprefix("network: ")
    except UserError as error:
        logger.warning("the picture tells no parameters: %s", error)
        return ""


def _short(number: int) -> str:
    for factor, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= factor:
            return f"{number / factor:.2f}{letter}"
    return str(number)
