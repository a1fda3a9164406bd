"""`naswot`: how differently a network's activations switch for different images (Mellor et al. 2021)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from nas_osr.search_spaces.operations.parts import Activation

SWITCHES = (Activation, nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU)


def naswot(network: nn.Module, images: Tensor, labels: Tensor | None = None) -> float:
    """log |det K|, K[i, j] the number of activations that are on, or off, for both images; -inf for two equal rows.

    Section 3. An activation is on where its input is positive, whatever follows below 0. BatchNorm uses the batch.

    Args:
        images: [B, C, H, W] float in [0, 1].
    """
    probed = copy.deepcopy(network).train()
    kernel = torch.zeros(len(images), len(images), dtype=torch.double)

    def look(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        on = (arguments[0].flatten(1) > 0).float()
        kernel.add_((on @ on.T + (1 - on) @ (1 - on).T).cpu())

    for module in probed.modules():
        if isinstance(module, SWITCHES):
            module.register_forward_pre_hook(look)
    with torch.no_grad():
        probed(images)
    return float(torch.linalg.slogdet(kernel).logabsdet)
