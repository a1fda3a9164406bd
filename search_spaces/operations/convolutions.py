"""`conv` and `conv2`: one 3x3 convolution, and two with a residual connection (NAS-OSR, search space)."""

from __future__ import annotations

from torch import Tensor, nn

from nas_osr.search_spaces.operations.parts import Subsample, activation, conv_bn


class Conv(nn.Sequential):
    """One 3x3 convolution."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__(conv_bn(channels_in, channels_out, 3, stride), activation())


class ResidualConv2(nn.Module):
    """Two 3x3 convolutions with a residual connection."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(conv_bn(channels_in, channels_out, 3, stride), activation())
        self.second = conv_bn(channels_out, channels_out, 3, 1)
        self.shortcut: nn.Module = nn.Identity()
        if stride == 2:
            self.shortcut = nn.Sequential(Subsample(), conv_bn(channels_in, channels_out, 1, 1))
        elif channels_in != channels_out:
            self.shortcut = conv_bn(channels_in, channels_out, 1, 1)
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C_out, H/stride, W/stride]."""
        return self.activation(self.second(self.first(x)) + self.shortcut(x))
