"""The candidate operations of a cell, by name. Free of torch until a class is asked for.

An operation is a `torch.nn.Module` that is built as `Operation(channels_in, channels_out, stride)` and maps
[B, channels_in, H, W] to [B, channels_out, H/stride, W/stride]: with stride 1 it keeps the map, with stride 2 it halves
the resolution. It leaves its input as it is, since the other candidates of the cell read the same.

A new one is a file in this folder and a line in the table; a user's own is named by its dotted path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nas_osr.plugins import load_class

if TYPE_CHECKING:
    from torch import nn

ACTIVATIONS = ("leaky_relu", "relu", "gelu", "silu")
"""What a network may have between its convolutions; the paper's first."""
NONE = "none"  # weighs in a supernet, and is in no network that is found
OPERATIONS: dict[str, str] = {
    "skip": "nas_osr.search_spaces.operations.skip:Skip",
    "conv": "nas_osr.search_spaces.operations.convolutions:Conv",
    "conv2": "nas_osr.search_spaces.operations.convolutions:ResidualConv2",
    "conv3": "nas_osr.search_spaces.operations.convolutions:PooledConv3",
    "separable3": "nas_osr.search_spaces.operations.separable:Separable3",
    "separable5": "nas_osr.search_spaces.operations.separable:Separable5",
    "dilated3": "nas_osr.search_spaces.operations.separable:Dilated3",
    "inverted": "nas_osr.search_spaces.operations.inverted:Inverted",
    "average_pool": "nas_osr.search_spaces.operations.pools:AveragePool",
    "maximum_pool": "nas_osr.search_spaces.operations.pools:MaximumPool",
    NONE: "nas_osr.search_spaces.operations.nothing:Nothing",
}


def operation_class(name: str, *, import_plugins: bool = False) -> Callable[[int, int, int], nn.Module]:
    """The operation of this name or dotted path: called with (channels_in, channels_out, stride), it gives a module.

    `import_plugins` is for names from the user's own command line or configuration; see `nas_osr.plugins.load_class`.
    Raises UserError when there is no such thing.
    """
    from torch import nn

    return load_class("operation", name, OPERATIONS, nn.Module, import_plugins=import_plugins)
