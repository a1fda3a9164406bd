"""Using a network without leaving a trace in it: frozen parameters, BatchNorm that records nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from torch import nn


@contextlib.contextmanager
def unrecorded(module: nn.Module) -> Iterator[None]:
    """Inside: BatchNorm layers in train mode use batch statistics without recording them."""
    norms = [item for item in module.modules() if isinstance(item, nn.modules.batchnorm._BatchNorm)]
    tracking = [norm for norm in norms if norm.training and norm.track_running_stats]
    for norm in tracking:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in tracking:
            norm.track_running_stats = True


@contextlib.contextmanager
def without_gradients(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Inside: these parameters take no gradient, and none is computed for them."""
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


@contextlib.contextmanager
def frozen(module: nn.Module, parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Inside: these parameters take no gradient, and BatchNorm uses batch statistics without recording them."""
    with without_gradients(parameters), unrecorded(module):
        yield
