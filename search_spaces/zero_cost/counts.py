"""`parameters` and `macs`: how large a network is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas_osr.cost.steps import count_flops


def count_parameters(network: nn.Module, images: Tensor | None = None, labels: Tensor | None = None) -> int:
    """All parameters of a network."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_macs_of_encoder(network: nn.Module, images: Tensor, labels: Tensor | None = None) -> int:
    """Multiply-accumulates of convolutions and matrix products for one image, as torch counts them."""
    training = network.training
    network.eval()
    with torch.no_grad():
        flops = count_flops(lambda: network(images[:1]))
    network.train(training)
    return flops // 2
