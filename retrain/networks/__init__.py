"""The papers' baseline networks by name: encoders without a search. Free of torch until one is built."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nas_osr.errors import UserError

if TYPE_CHECKING:
    from torch import nn

NETWORKS: Mapping[str, str] = {
    "cac": "nas_osr.retrain.networks.cac:CACNetwork",
    "dhrnet": "nas_osr.retrain.networks.vgg:DHRNet",
    "resnet18": "nas_osr.retrain.networks.resnet:ResNet18",
    "resnet34": "nas_osr.retrain.networks.resnet:ResNet34",
    "resnet50": "nas_osr.retrain.networks.resnet:ResNet50",
    "vgg13": "nas_osr.retrain.networks.vgg:VGG13",
}
SMALLEST_SIDE: Mapping[str, int] = {"vgg13": 32}  # of images, where a network needs more than every encoder does


def check_network(name: object, image_shape: tuple[int, int, int] | None = None) -> None:
    """UserError unless there is a network of this name that takes images of shape (C, H, W), where one is given."""
    if not isinstance(name, str) or name not in NETWORKS:
        raise UserError(f"unknown network {name!r}: choose one of {', '.join(NETWORKS)}")
    least = SMALLEST_SIDE.get(name, 0)
    if image_shape is not None and min(image_shape[1:]) < least:
        raise UserError(
            f"network {name} needs images of at least {least} pixels a side, got {image_shape[1]}x{image_shape[2]}"
        )


def build_network(
    name: str,
    image_channels: int,
    mean: Sequence[float],
    std: Sequence[float],
    image_shape: tuple[int, int, int],
) -> nn.Module:
    """The encoder of this name with fresh weights (from torch's global generator).

    Like every encoder it takes images in [0, 1], normalises them first and returns `nas_osr.outputs.Features`.
    `branches[2]` is the map under the heads, whatever its resolution; `intermediate` has one at 1/2, 1/4 and 1/8 of the
    image's (scales -1, 0, 1).

    Args:
        name: one of `NETWORKS`.
        image_channels: 1 or 3.
        mean, std: of each channel.
        image_shape: (C, H, W).

    Raises:
        UserError: no such network, or the images are too small for it.
    """
    check_network(name, image_shape)
    module_name, _, attribute = NETWORKS[name].partition(":")
    network = getattr(importlib.import_module(module_name), attribute)
    return network(image_channels, mean, std, image_shape)
