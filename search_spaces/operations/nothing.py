"""`none`: nothing at all (DARTS), by which a supernet can make the other operations of a cell matter less."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Nothing(nn.Module):
    """Zeros. A network that is found has no such cell, behind which its path would be dead."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels_out, stride

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C_out, H/stride, W/stride]."""
        last = x.is_contiguous(memory_format=torch.channels_last)
        shape = (x.shape[0], self.channels, x.shape[2] // self.stride, x.shape[3] // self.stride)
        layout = torch.channels_last if last else torch.contiguous_format
        return torch.zeros(shape, dtype=x.dtype, device=x.device).contiguous(memory_format=layout)
