"""Outputs whose logits are linear in their embedding, for the rules that read the last layer."""

import torch
from torch import Tensor, nn

from nas_osr.outputs import Outputs


def make_layer(classes: int = 4, width: int = 12) -> nn.Linear:
    """The same layer each time, float32."""
    layer = nn.Linear(width, classes).requires_grad_(False)
    generator = torch.Generator().manual_seed(5)
    layer.weight.copy_(torch.randn(classes, width, generator=generator))
    layer.bias.copy_(torch.randn(classes, generator=generator))
    return layer


def linear_outputs(size: int, seed: int, known: bool = True, width: int = 12) -> tuple[Outputs, Tensor]:
    """Float64 features of a ReLU [size, width] near their class's row of the layer, or near none, with targets."""
    layer = make_layer(width=width).double()
    targets = torch.arange(size) % 4
    noise = 0.7 * torch.randn(size, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    features = torch.relu(layer.weight[targets] * known + noise)
    return Outputs(logits=layer(features), embedding=features), targets
