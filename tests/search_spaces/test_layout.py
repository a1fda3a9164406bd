"""Gradients in the layout of their maps: against plain indexing, on values, gradients and layouts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nas_osr.search_spaces.architectures.sampling import sample_architecture
from nas_osr.search_spaces.layout import keep_layout, subsample
from nas_osr.search_spaces.network import DiscreteNetwork
from nas_osr.search_spaces.space import Space
from nas_osr.search_spaces.supernet import build_supernet

LAST = torch.channels_last


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
