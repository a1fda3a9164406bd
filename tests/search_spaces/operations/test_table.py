"""What holds for every operation of the table."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nas_osr.search_spaces.operations import NONE, OPERATIONS, operation_class
from nas_osr.search_spaces.space import Space
from nas_osr.search_spaces.supernet import build_supernet


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("stride", [1, 2])
def test_every_operation_keeps_or_halves_and_leaves_its_input_alone(name: str, stride: int) -> None:
    operation = operation_class(name)(8, 8 * stride, stride)
    assert isinstance(operation, nn.Module)
    for side in (2, 8):
        maps = torch.randn(4, 8, side, side, requires_grad=True)
        before = maps.detach().clone()
        found = operation(maps)
        assert found.shape == (4, 8 * stride, side // stride, side // stride)
        assert torch.equal(maps, before)
        if name == NONE:
            assert not found.any()
        else:
            found.square().mean().backward()
            assert maps.grad is not None and maps.grad.any()


def test_a_supernet_mixes_all_of_them() -> None:
    space = Space(layers=3, channels=16, operations=tuple(OPERATIONS))
    supernet = build_supernet(space, 1, (0.5,), (0.5,))
    assert supernet(torch.rand(2, 1, 32, 32)).branches[2].shape == (2, 64, 2, 2)
    assert len(supernet.alphas()[0, 0]) == len(OPERATIONS)
