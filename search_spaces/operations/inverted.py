"""`inverted`: an inverted bottleneck with squeeze-excitation (MobileNetV3)."""

from __future__ import annotations

from torch import Tensor, nn

from nas_osr.search_spaces.operations.parts import Mask, activation, conv_bn

EXPANSION = 4  # of the channels between; with stride 2 of those that come in
SQUEEZE = 4  # channels between for one that is squeezed


class Inverted(nn.Module):
    """1x1 to four times the channels, depthwise 3x3, squeeze-excitation, 1x1 back; residual where the shape stays.

    Sandler et al. 2018, Howard et al. 2019.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        between = EXPANSION * channels_out // stride
        self.expand = nn.Sequential(conv_bn(channels_in, between, 1, 1), activation())
        self.depthwise = nn.Sequential(conv_bn(between, between, 3, stride, groups=between), activation())
        self.excite = Excitation(between, between // SQUEEZE)
        self.project = conv_bn(between, channels_out, 1, 1)
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C_out, H/stride, W/stride]."""
        found: Tensor = self.project(self.excite(self.depthwise(self.expand(x))))
        return x + found if self.residual else found


class Excitation(nn.Module):
    """Squeeze-excitation (Hu et al. 2018): each channel times what the means of all channels say of it."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.squeeze = nn.Sequential(nn.Conv2d(channels, squeezed, 1), activation(), Mask())
        self.excite = nn.Sequential(nn.Conv2d(squeezed, channels, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        gates: Tensor = self.excite(self.squeeze(x.mean(dim=(2, 3), keepdim=True)))
        return x * gates
