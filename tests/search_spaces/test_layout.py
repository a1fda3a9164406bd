"""Faster ways to the same values: against torch's own convolution and indexing, on values, gradients and layouts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from nas_osr.search_spaces.architectures.references import sample_architecture
from nas_osr.search_spaces.layout import Convolution, dense_convolution, keep_layout, subsample
from nas_osr.search_spaces.network import DiscreteNetwork
from nas_osr.search_spaces.space import Space
from nas_osr.search_spaces.supernet import build_supernet

LAST = torch.channels_last


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_a_product_equals_the_convolution_of_a_tiny_map(size: tuple[int, int], stride: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 5, *size, dtype=torch.float64).contiguous(memory_format=LAST).requires_grad_()
    weight = torch.randn(7, 5, 3, 3, dtype=torch.float64).contiguous(memory_format=LAST).requires_grad_()
    plain, dense = F.conv2d(x, weight, stride=stride, padding=1), dense_convolution(x, weight, stride)
    torch.testing.assert_close(dense, plain)
    assert dense.is_contiguous(memory_format=LAST)
    pick = torch.randn_like(plain)
    expected, found = (torch.autograd.grad((y * pick).sum(), (x, weight)) for y in (plain, dense))
    torch.testing.assert_close(found, expected)
    assert all(gradient.is_contiguous(memory_format=LAST) for gradient in found)


def products(convolution: nn.Module, x: Tensor) -> int:
    """Multiplications a pair of channels and an image, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        convolution(x)
    return counter.get_total_flops() // 2 // (8 * 8) // len(x)


def test_only_steps_on_tiny_maps_in_float32_take_the_product() -> None:
    convolution, tiny = Convolution(8, 8, 3, 1), torch.randn(4, 8, 2, 2)
    assert products(convolution, tiny) == 4 * 4
    with torch.no_grad():
        assert products(convolution, tiny) == 4 * 9
    with torch.autocast("cpu", torch.bfloat16):
        assert products(convolution, tiny) == 4 * 9
    assert products(convolution.double(), tiny.double()) == 4 * 9
    assert products(convolution.float(), torch.randn(4, 8, 2, 4)) == 8 * 9
    assert products(Convolution(8, 8, 1, 1), tiny) == 4


@pytest.mark.parametrize("memory_format", [LAST, torch.contiguous_format])
def test_gradients_come_back_in_the_layout_of_the_maps(memory_format: torch.memory_format) -> None:
    x = torch.randn(2, 3, 4, 6).contiguous(memory_format=memory_format).requires_grad_()
    kept = keep_layout(x)
    assert torch.equal(kept, x)
    other = torch.randn(2, 3, 4, 6).contiguous(memory_format=torch.contiguous_format if memory_format == LAST else LAST)
    (gradient,) = torch.autograd.grad(kept, x, other)
    assert torch.equal(gradient, other) and gradient.is_contiguous(memory_format=memory_format)
    for start in (0, 1):
        y = subsample(x, start)
        assert torch.equal(y, x[:, :, start::2, start::2])
        pick = torch.randn_like(y)
        (gradient,) = torch.autograd.grad(y, x, pick)
        assert torch.equal(gradient, torch.autograd.grad(x[:, :, start::2, start::2], x, pick)[0])
        assert gradient.is_contiguous(memory_format=memory_format)


class Layouts(TorchDispatchMode):
    """Notes elementwise operations and BatchNorm on maps of different layouts."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("add", "mul", "leaky_relu_backward", "native_batch_norm", "native_batch_norm_backward"):
            maps = [item for item in tree_leaves((args, kwargs)) if isinstance(item, Tensor) and item.dim() == 4]
            layouts = {map_.is_contiguous(memory_format=LAST) for map_ in maps if map_.shape[2] * map_.shape[3] > 1}
            if len(layouts) > 1:
                self.mixed.append(f"{name} {list(maps[0].shape)}")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["supernet", "network"])
@pytest.mark.parametrize("head", ["flat", "pooled"])
def test_a_backward_pass_never_mixes_layouts(kind: str, head: str) -> None:
    torch.manual_seed(0)
    config = Space(layers=4, channels=16)
    network: nn.Module
    if kind == "supernet":
        network = build_supernet(config, 3, (0.5,) * 3, (0.2,) * 3)
    else:
        network = DiscreteNetwork(sample_architecture(config, 1), 3, (0.5,) * 3, (0.2,) * 3)
    network = network.to(memory_format=LAST)
    last = network(torch.rand(4, 3, 32, 32).contiguous(memory_format=LAST)).branches[2]
    loss = (last.flatten(1) if head == "flat" else last.mean(dim=(2, 3))).square().sum()
    with Layouts() as layouts:
        loss.backward()
    assert not layouts.mixed


def test_a_supernet_has_the_gradients_of_plain_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    supernet = build_supernet(Space(layers=4, channels=16), 3, (0.5,) * 3, (0.2,) * 3)
    images = torch.rand(8, 3, 32, 32)

    def run() -> list[Tensor]:
        last = supernet(images).branches[2]
        return [last, *torch.autograd.grad(last.square().sum(), list(supernet.parameters()))]

    dense = run()
    monkeypatch.setattr(Convolution, "forward", nn.Conv2d.forward)
    for found, expected in zip(dense, run(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.detach().abs().max()))
