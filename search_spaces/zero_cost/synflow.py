"""`synflow`: how much of the input reaches the output through the sizes of the weights (Tanaka et al. 2020)."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from nas_osr.training.prepared import PreparedLayer


def synflow(network: nn.Module, images: Tensor, labels: Tensor | None = None) -> float:
    """log sum |theta dR/dtheta|, R the sum of the channels' means for an image of ones, all weights made positive.

    Eq. 6 with the sum over the network of Abdelfattah et al. (2021). BatchNorm uses its running statistics, 0 and 1 in
    a fresh network. In double precision and as a logarithm, since R is a product over the layers; -inf where nothing
    reaches the output. Filters that no step moves count as weights of R, not of the sum.

    Args:
        images: [B, C, H, W], of which the shape alone counts.
    """
    positive = copy.deepcopy(network).double().eval()
    with torch.no_grad():
        for parameter in positive.parameters():
            parameter.abs_()
        for layer in positive.modules():
            for fixed in layer.buffers() if isinstance(layer, PreparedLayer) else ():
                fixed.abs_()
    if hasattr(positive, "normalise"):  # the image of ones is what comes after it
        positive.normalise = nn.Identity()
    parameters = list(positive.parameters())
    features = positive(torch.ones_like(images[:1], dtype=torch.double))
    total = torch.stack([maps.mean(dim=(2, 3)).sum() for maps in features.branches.values()]).sum()
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    score = sum(
        float((p * g).abs().sum().detach()) for p, g in zip(parameters, gradients, strict=True) if g is not None
    )
    return math.log(score) if score > 0 else -math.inf
