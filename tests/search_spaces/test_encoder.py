"""What an encoder starts with: the stems, and which images fit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_osr.errors import UserError
from nas_osr.search_spaces.encoder import check_image_shape
from nas_osr.search_spaces.stems import STEMS, stem_class
from nas_osr.training.prepared import prepare_layers

SLOPE = 0.2


@pytest.mark.parametrize("name", STEMS)
@pytest.mark.parametrize(("image_channels", "side"), [(1, 16), (3, 32)])
def test_maps_at_half_and_at_a_quarter(name: str, image_channels: int, side: int) -> None:
    stem = stem_class(name)(image_channels, 32)
    encoder = nn.ModuleDict({"normalise": nn.Identity(), "stem": stem})
    prepare_layers(encoder, torch.randint(256, (9, image_channels, 8, 8), dtype=torch.uint8))
    half, quarter = stem(torch.rand(4, image_channels, side, side))
    assert half.shape == (4, 16, side // 2, side // 2)
    assert quarter.shape == (4, 32, side // 4, side // 4)
    (half.square().mean() + quarter.square().mean()).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in stem.parameters())


def conv_bn(x: Tensor, block: nn.Module) -> Tensor:
    """The definition, from the weights of a convolution and a BatchNorm."""
    convolution, bn = block[0], block[1]  # type: ignore[index]
    x = F.conv2d(x, convolution.weight, stride=convolution.stride, padding=convolution.weight.shape[-1] // 2)
    return F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps)


def activation(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE)


def test_the_pooled_stem_by_its_definition() -> None:
    torch.manual_seed(0)
    stem = stem_class("pooled")(3, 16)
    for module in stem.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)  # negative ones, too: pooling comes after BatchNorm
            nn.init.normal_(module.bias)
    images = torch.rand(8, 3, 32, 32)
    stem.train()(images)  # running statistics of its own
    stem.eval()
    full = activation(conv_bn(images, stem.full[0]))  # type: ignore[index]
    assert full.shape == (8, 4, 32, 32)
    half = F.max_pool2d(activation(conv_bn(full, stem.to_half[0])), 2)  # type: ignore[index]
    block = stem.to_half[3]  # type: ignore[index]
    half = activation(conv_bn(activation(conv_bn(half, block.first[0])), block.second) + half)
    quarter = F.max_pool2d(activation(conv_bn(half, stem.to_quarter[0])), 2)  # type: ignore[index]
    found = stem(images)
    torch.testing.assert_close(found[0], half, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1], quarter, rtol=1e-5, atol=1e-5)


def test_image_sides_must_be_multiples_of_sixteen() -> None:
    for shape in ((3, 32, 32), (1, 64, 48)):
        check_image_shape(shape)
    for shape in ((3, 28, 28), (3, 32, 40), (1, 0, 16)):
        with pytest.raises(UserError, match=f"multiples of 16, got {shape[1]}x{shape[2]}"):
            check_image_shape(shape)
