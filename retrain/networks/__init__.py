"""Networks without a search, by name: the papers' baselines and those of others. Free of torch until asked for one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nas_osr.configuration import make_config
from nas_osr.errors import UserError, show
from nas_osr.plugins import load_class

if TYPE_CHECKING:
    from nas_osr.retrain.networks.base import Network

NETWORKS: Mapping[str, str] = {
    "cac": "nas_osr.retrain.networks.cac:CACNetwork",
    "dhrnet": "nas_osr.retrain.networks.vgg:DHRNet",
    "plain": "nas_osr.retrain.networks.plain_network:Plain",
    "resnet18": "nas_osr.retrain.networks.resnet:ResNet18",
    "resnet34": "nas_osr.retrain.networks.resnet:ResNet34",
    "resnet50": "nas_osr.retrain.networks.resnet:ResNet50",
    "vgg13": "nas_osr.retrain.networks.vgg:VGG13",
}


def network_class(name: str, *, import_plugins: bool = True) -> type[Network]:
    """The network of this name, `timm:NAME`, or dotted path (see `nas_osr.plugins.load_class`).

    Settings follow a colon, as in `plain:width=64,whitening=true`. A class that is any torch.nn.Module, and one of
    timm, are wrapped as `nas_osr.retrain.networks.foreign.Foreign`.

    Raises:
        UserError: there is none, or it has no such settings.
    """
    from torch import nn

    from nas_osr.retrain.networks.base import Network

    if name.startswith("timm:"):
        from nas_osr.retrain.networks.foreign import timm_network

        return timm_network(name)
    known, _, settings = name.partition(":")
    found = load_class("network", known, NETWORKS, nn.Module, import_plugins=import_plugins)
    if issubclass(found, Network):
        return configured(known, found, settings)
    if settings:
        raise UserError(f"network {known} has no settings: leave :{settings} out")
    from nas_osr.retrain.networks.foreign import wrap_module

    return wrap_module(name, found)


def configured(name: str, kind: type[Network], settings: str) -> type[Network]:
    """The class `kind` with its settings, from text such as `width=64,whitening=true`. Raises UserError."""
    if kind.config_class is None:
        if settings:
            raise UserError(f"network {name} has no settings: leave :{settings} out")
        return kind
    values = {}
    for part in filter(None, settings.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise UserError(f"network {name}: its settings are of the form {name}:setting=value,..., got {show(part)}")
        try:
            values[key] = json.loads(value)
        except ValueError:  # a word
            values[key] = value
    config: Any = make_config(f"network {name}", kind.config_class, values)
    return type(kind.__name__, (kind,), {"config": config})


def check_network(name: str, image_shape: tuple[int, int, int], *, import_plugins: bool = True) -> None:
    """UserError unless there is a network of this name that takes images of shape (C, H, W)."""
    least = network_class(name, import_plugins=import_plugins).smallest_side
    if min(image_shape[1:]) < least:
        raise UserError(
            f"network {name} needs images of at least {least} pixels a side, got {image_shape[1]}x{image_shape[2]}"
        )
