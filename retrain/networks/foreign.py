"""Networks of others as encoders: a plain torch.nn.Module of the user's, and timm's by name."""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nas_osr.data.sources.base import Shape
from nas_osr.errors import UserError
from nas_osr.outputs import Features
from nas_osr.retrain.networks.base import Network

TIMM = "timm:"
CONTRACT = "it turns normalised images [B, C, H, W] into features [B, F] or maps [B, F, h, w]"


class Foreign(Network):
    """A network that knows nothing of this package: what it returns is the map under the heads, [B, F] as [B, F, 1, 1].

    It is given normalised images, and tried on empty ones when it is built.

    Attributes:
        title: its name, for messages.
        make: (C, H, W) of the images -> the network, with fresh weights from torch's global generator.
        body: the network itself.
    """

    title: ClassVar[str]
    make: ClassVar[Callable[[Shape], nn.Module]]

    def build(self, image_channels: int, image_shape: Shape) -> None:
        """Raises UserError: it cannot be built, or not run on such images, or returns something else."""
        kind = type(self)
        try:
            self.body = kind.make(image_shape)
            with torch.no_grad():
                found = self.body.eval()(torch.zeros(2, *image_shape))
        except UserError:
            raise
        except Exception as error:  # whatever another's network raises
            reason = " ".join(str(error).split())
            raise UserError(f"network {kind.title} on images {list(image_shape)}: {reason}; {CONTRACT}") from error
        if not isinstance(found, Tensor) or found.dim() not in (2, 4) or found.shape[0] != 2:
            gives = list(found.shape) if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise UserError(f"network {kind.title} gives {gives} for images {[2, *image_shape]}: {CONTRACT}")
        self.body.train()

    def forward(self, images: Tensor) -> Features:
        """[B, C, H, W] in [0, 1] -> what the network says of the normalised images, as a map."""
        [found] = self.in_turn(images, self.body)
        return Features({2: found if found.dim() == 4 else found[:, :, None, None]}, {})


def wrap_module(name: str, kind: type[nn.Module]) -> type[Foreign]:
    """The encoder of a user's own module class."""

    class Wrapped(Foreign):
        title, make = name, staticmethod(partial(make_module, kind))

    return Wrapped


def make_module(kind: type[nn.Module], image_shape: Shape) -> nn.Module:
    """A module by its class; of `image_channels` and `image_shape` its constructor gets those that it names."""
    facts: dict[str, Any] = {"image_channels": image_shape[0], "image_shape": image_shape}
    wanted = inspect.signature(kind).parameters
    return kind(**{name: value for name, value in facts.items() if name in wanted})


def timm_network(name: str) -> type[Foreign]:
    """The encoder of a network of timm, such as `timm:resnet18`: its pooled features, without its classifier.

    Raises UserError: timm is not installed, or has no such network.
    """
    if not import_timm().is_model(name.removeprefix(TIMM)):
        version = importlib.metadata.version("timm")
        raise UserError(f"network {name}: timm {version} has none of this name: `timm.list_models()` names them")

    class OfTimm(Foreign):
        title, make = name, staticmethod(partial(make_timm, name))

    return OfTimm


def make_timm(name: str, image_shape: Shape, *, pretrained: bool = False) -> nn.Module:
    """A network of timm for images of this shape; `pretrained` with the weights of its hub."""
    timm = import_timm()
    architecture = name.removeprefix(TIMM)
    config = timm.get_pretrained_cfg(architecture)
    sized = {"img_size": tuple(image_shape[1:])} if config is not None and config.fixed_input_size else {}
    made: nn.Module = timm.create_model(
        architecture, pretrained=pretrained, in_chans=image_shape[0], num_classes=0, **sized
    )
    return made


def import_timm() -> Any:
    """The module timm. Raises UserError when it is not installed."""
    try:
        import timm
    except ModuleNotFoundError as error:
        raise UserError("networks timm:NAME need timm: pip install nas-osr[timm]") from error
    return timm
