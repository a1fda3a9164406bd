"""`skip`: the map as it is (NAS-OSR, search space)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas_osr.search_spaces.operations.parts import Mask, Subsample


class Skip(nn.Sequential):
    """Identity; where the resolution is halved, a factorised reduction."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        same = stride == 1 and channels_in == channels_out
        super().__init__(*([] if same else [FactorizedReduce(channels_in, channels_out)]))


class FactorizedReduce(nn.Module):
    """Halves the resolution without a 3x3 kernel: two 1x1 convolutions on pixels one diagonal step apart (DARTS)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.even = nn.Sequential(Subsample(0), nn.Conv2d(channels_in, channels_out // 2, 1, bias=False))
        self.odd = nn.Sequential(Subsample(1), nn.Conv2d(channels_in, channels_out - channels_out // 2, 1, bias=False))
        self.bn = nn.BatchNorm2d(channels_out)
        self.mask = Mask()

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C_out, H/2, W/2]."""
        return self.mask(self.bn(torch.cat([self.even(x), self.odd(x)], dim=1)))
