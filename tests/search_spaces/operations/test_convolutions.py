"""`conv3` beside the block of the network `plain`."""

from __future__ import annotations

import torch
from torch import nn

from nas_osr.retrain.networks.plain_network import Block
from nas_osr.search_spaces.operations.convolutions import PooledConv3
from nas_osr.search_spaces.operations.parts import choose_activation


def test_where_it_halves_it_is_the_block_of_the_plain_network() -> None:
    """It normalises before it pools: the same without statistics of batches, and with scales above zero."""
    block, found = Block(8, 12, residual=True).eval(), PooledConv3(8, 12, 2).eval()
    choose_activation(found, "gelu")
    for own, other in zip(weights_of(found), weights_of(block), strict=True):
        nn.init.normal_(other, std=0.2)
        if other.ndim == 1:
            other.data.abs_()
        own.data.copy_(other.data)
    maps = torch.randn(3, 8, 6, 10)
    torch.testing.assert_close(found(maps), block(maps))


def weights_of(module: nn.Module) -> list[nn.Parameter]:
    return [weight for part in module.modules() for weight in part.parameters(recurse=False)]
