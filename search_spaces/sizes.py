"""How large a space is, its supernet, and a network out of it: lines for people. No weights are made for that."""

from __future__ import annotations

import logging

import torch
from torch import nn

from nas_osr.data.sources.base import Shape
from nas_osr.errors import UserError
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.architectures.canonical import count_descriptions, count_distinct
from nas_osr.search_spaces.budgets import network_sizes
from nas_osr.search_spaces.network import DiscreteNetwork
from nas_osr.search_spaces.space import Space
from nas_osr.search_spaces.supernet import build_supernet
from nas_osr.search_spaces.zero_cost.counts import count_macs_of_encoder, count_parameters

logger = logging.getLogger(__name__)


def describe_space(space: Space) -> str:
    """E.g. "7,290 architectures, 2,439 different networks"."""
    listed, distinct = count_descriptions(space), count_distinct(space)
    if listed is None:
        return "more architectures than are counted"
    different = "" if distinct is None else f", {distinct:,} different networks"
    return f"{listed:,} architectures{different}{'; second inputs not counted' if space.two_inputs else ''}"


def describe_supernet(space: Space, image_shape: Shape, partial_channels: int = 1) -> str:
    """E.g. "supernet: 285.00M parameters, 3.01G multiply-accumulates an image of 3x32x32", of the encoder alone."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        supernet = build_supernet(space, image_shape[0], *_statistics(image_shape), partial_channels)
    return f"supernet: {_describe(supernet, image_shape)}"


def describe_architecture(architecture: Architecture, image_shape: Shape) -> str:
    """The same of a network, without heads, and the bytes that it needs at prediction (`Sizes.memory`).

    Raises:
        UserError: a user's own class is not loaded.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        network = DiscreteNetwork(architecture, image_shape[0], *_statistics(image_shape))
    memory = network_sizes(architecture, image_shape).memory
    return f"network: {_describe(network, image_shape)}, {_short(memory)}B at prediction"


def sizes_of(architecture: Architecture) -> str:
    """What the network needs on images as in its search; "" where that is not known.

    Where an operation of a user's own is not loaded, which a picture does not need, a line says so.
    """
    shape = architecture.found.get("image_shape")
    if not (isinstance(shape, list) and len(shape) == 3 and all(type(n) is int and 0 < n < 4096 for n in shape)):
        return ""
    try:
        found = describe_architecture(architecture, (shape[0], shape[1], shape[2])).removeprefix("network: ")
    except UserError as error:
        logger.warning("the picture tells no parameters: %s", error)
        return ""
    return ", ".join(filter(None, (found, describe_latency(architecture))))


def describe_latency(architecture: Architecture) -> str:
    """E.g. "0.35 ms an image on cpu, 2 threads", by the table of the search that found it; "" where it had none."""
    latency = architecture.found.get("latency")
    if not isinstance(latency, dict) or not isinstance(latency.get("milliseconds"), int | float):
        return ""
    return f"{latency['milliseconds']:.3g} ms an image on {latency.get('device')}"


def _statistics(image_shape: Shape) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return (0.0,) * image_shape[0], (1.0,) * image_shape[0]


def _describe(encoder: nn.Module, image_shape: Shape) -> str:
    macs = count_macs_of_encoder(encoder, torch.empty(1, *image_shape, device="meta"))
    size = "x".join(map(str, image_shape))
    return f"{_short(count_parameters(encoder))} parameters, {_short(macs)} multiply-accumulates an image of {size}"


def _short(number: int) -> str:
    for factor, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= factor:
            return f"{number / factor:.2f}{letter}"
    return str(number)
