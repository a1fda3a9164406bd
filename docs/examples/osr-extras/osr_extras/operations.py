"""An operation and a stem."""

from torch import Tensor, nn


class Separable(nn.Sequential):
    """A 3x3 convolution of each channel by itself, and one that mixes the channels."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_in, 3, stride, padding=1, groups=channels_in, bias=False),
            nn.Conv2d(channels_in, channels_out, 1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.LeakyReLU(0.2, inplace=True),
        )


class Patches(nn.Module):
    """Every patch of 2x2 pixels becomes one, twice."""

    def __init__(self, image_channels: int, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(image_channels, channels // 2, 2, stride=2)
        self.second = nn.Conv2d(channels // 2, channels, 2, stride=2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        half = self.first(images)
        return half, self.second(half)
