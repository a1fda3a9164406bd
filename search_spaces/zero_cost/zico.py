"""`zico`: how large gradients are beside how much they differ between batches (Li et al. 2023)."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas_osr.objectives.parts.pooling import pool
from nas_osr.seeds import make_generator

BATCHES = 2  # of the authors' code


def zico(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Sum over the layers of log sum_w (mean |g_w| / std g_w), g the cross-entropy's gradient of a weight by batch.

    Eq. 11, of convolutions and linear layers; the images are two batches. The classifier is one linear layer on the
    pooled features with weights from N(0, 1/D), the same for all networks of as many features, and counted too.
    A weight whose gradient is the same in both batches is left out, and so is a layer without another.

    Args:
        images, labels: [B, C, H, W] float in [0, 1] and [B]; B is even and at least 4.
    """
    probed = copy.deepcopy(network).train()
    with torch.no_grad():
        features = pool(probed(images[:2])).shape[1]
    classes = int(labels.max()) + 1
    head = torch.randn(classes, features, generator=make_generator(0, "zico")) / math.sqrt(features)
    head = head.to(images.device).requires_grad_()
    layers = [module.weight for module in probed.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    weights = [*layers, head]
    found = []
    for batch, truth in zip(images.chunk(BATCHES), labels.chunk(BATCHES), strict=True):
        loss = F.cross_entropy(pool(probed(batch)) @ head.T, truth)
        found.append(torch.autograd.grad(loss, weights, allow_unused=True))
    total = 0.0
    for gradients in zip(*found, strict=True):
        if gradients[0] is None:
            continue
        stacked = torch.stack(gradients)
        spread = stacked.std(dim=0, correction=0)
        ratio = (stacked.abs().mean(dim=0)[spread > 0] / spread[spread > 0]).sum()
        total += math.log(ratio) if ratio > 0 else 0.0
    return total
