"""`conv`, `conv2` (NAS-OSR, search space) and `conv3`: one 3x3 convolution, two with a residual connection, three."""

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


class PooledConv3(nn.Module):
    """A 3x3 convolution, pooled where it halves, and two that add to it: the block of ResNet-9 (Page 2018).

    A stride computes a quarter of the pixels; maximum pooling chooses among all of them.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        pool = [nn.MaxPool2d(2)] if stride == 2 else []
        self.enter = nn.Sequential(conv_bn(channels_in, channels_out, 3, 1), *pool, activation())
        further = [conv_bn(channels_out, channels_out, 3, 1) for _ in range(2)]
        self.further = nn.Sequential(further[0], activation(), further[1], activation())

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C_out, H/stride, W/stride]."""
        x = self.enter(x)
        return x + self.further(x)
