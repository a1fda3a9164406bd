"""Networks without a search, by name: the papers' baselines and those of others. Free of torch until asked for one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nas_osr.errors import UserError
from nas_osr.plugins import load_class

if TYPE_CHECKING:
    from nas_osr.retrain.networks.base import Network

NETWORKS: Mapping[str, str] = {
    "cac": "nas_osr.retrain.networks.cac:CACNetwork",
    "dhrnet": "nas_osr.retrain.networks.vgg:DHRNet",
    "resnet18": "nas_osr.retrain.networks.resnet:ResNet18",
    "resnet34": "nas_osr.retrain.networks.resnet:ResNet34",
    "resnet50": "nas_osr.retrain.networks.resnet:ResNet50",
    "vgg13": "nas_osr.retrain.networks.vgg:VGG13",
}


def network_class(name: str, *, import_plugins: bool = True) -> type[Network]:
    """The network of this name, `timm:NAME`, or dotted path (see `nas_osr.plugins.load_class`).

    A class that is any torch.nn.Module, and one of timm, are wrapped as `nas_osr.retrain.networks.foreign.Foreign`.

    Raises:
        UserError: there is none.
    """
    from torch import nn

    from nas_osr.retrain.networks.base import Network

    if name.startswith("timm:"):
        from nas_osr.retrain.networks.foreign import timm_network

        return timm_network(name)
    found = load_class("network", name, NETWORKS, nn.Module, import_plugins=import_plugins)
    if issubclass(found, Network):
        return found
    from nas_osr.retrain.networks.foreign import wrap_module

    return wrap_module(name, found)


def check_network(name: str, image_shape: tuple[int, int, int], *, import_plugins: bool = True) -> None:
    """UserError unless there is a network of this name that takes images of shape (C, H, W)."""
    least = network_class(name, import_plugins=import_plugins).smallest_side
    if min(image_shape[1:]) < least:
        raise UserError(
            f"network {name} needs images of at least {least} pixels a side, got {image_shape[1]}x{image_shape[2]}"
        )
