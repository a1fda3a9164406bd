"""Bytes at prediction: pieces by hand, and their sums against what a whole network touches, operation by operation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas_osr.search_spaces.architectures.sampling import sample_architecture
from nas_osr.search_spaces.budgets import network_sizes
from nas_osr.search_spaces.network import DiscreteNetwork
from nas_osr.search_spaces.operations import operation_class
from nas_osr.search_spaces.pieces import Blocks, Piece, Traced, count_piece, trace_piece
from nas_osr.search_spaces.presets import space_of
from nas_osr.search_spaces.space import Space

SPACES = {
    "paper": Space(layers=5, channels=8),
    "branches": Space(layers=5, channels=8, branches=(0, 1, 2)),
    "wide": replace(space_of("wide", "tiny"), two_inputs=True),
}
MAP = 8 * 6 * 6 * 4  # bytes of 8 channels of 6x6 pixels


def piece(name: str, stride: int = 1, activation: str = "relu") -> Piece:
    return Piece(name, operation_class(name), (8, 8 * stride, stride), (8, 6, 6), activation)


def test_pieces_by_hand() -> None:
    assert trace_piece(piece("skip")) == (MAP, MAP, True)
    # convolution, BatchNorm, activation in place: two maps at once, and the input where something else needs it
    assert trace_piece(piece("conv")) == (2 * MAP, 3 * MAP, False)
    # gelu is not in place, but the input is not needed by then
    assert trace_piece(piece("conv", activation="gelu")) == (2 * MAP, 3 * MAP, False)
    # the shortcut needs the input to the end of the second convolution's BatchNorm, which makes a third map
    assert trace_piece(piece("conv2"))[:2] == (3 * MAP, 3 * MAP)
    # 4 maps of a fourth of the pixels and twice the channels: a map is half as large
    assert trace_piece(piece("conv", stride=2)) == (MAP + MAP // 2, 2 * MAP, False)
    assert count_piece(piece("conv", stride=2)) == (16 * 8 * 9 + 32, 16 * 8 * 9 * 9, (16, 3, 3))


class Outputs(nn.Module):
    """A network's branches alone; what decoders read beside them is not looked at."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.maps = network, {}

    def forward(self, images: Tensor) -> Tensor:
        self.maps = self.network(images).branches
        return self.maps[max(self.maps)]


def whole_peak(network: nn.Module, images: Tensor) -> int:
    """The most bytes that are needed at once in a pass: of each operation what it touches, and what one before it
    touched that one after it will, or that leaves the network."""
    outputs = Outputs(network)
    traced = Traced(outputs, images)
    ends = {map_.untyped_storage()._cdata for map_ in outputs.maps.values()}
    peak = 0
    for place, turn in enumerate(traced.turns):
        past = set().union(*traced.turns[:place]) | {traced.given}
        later = set().union(*traced.turns[place + 1 :]) | ends
        peak = max(peak, sum(traced.bytes[one] for one in (past & later) | turn))
    return peak


@pytest.mark.parametrize("name", SPACES)
def test_a_network_needs_what_its_operations_touch_at_once(name: str) -> None:
    shape = (3, 32, 32)
    for seed in range(6):
        architecture = sample_architecture(SPACES[name], seed)
        network = DiscreteNetwork(architecture, 3, (0.0,) * 3, (1.0,) * 3).eval()
        network.shares = None  # pooling is not looked at
        with torch.no_grad():
            found = whole_peak(network, torch.zeros(1, *shape))
        assert network_sizes(architecture, shape).activations == found, architecture


@pytest.mark.parametrize("name", ["paper", "branches"])
def test_what_a_cell_needs_does_not_depend_on_others(name: str) -> None:
    shape = (1, 32, 32)
    for seed in range(6):
        mixed = sample_architecture(SPACES[name], seed)
        found: dict[str, Any] = Blocks(mixed, shape).peaks()
        for operation in mixed.space.selectable:
            renewed = {
                end: replace(branch, operations=(operation,) * len(branch.path))
                for end, branch in mixed.branches.items()
            }
            alone = Blocks(replace(mixed, branches=renewed), shape).peaks()
            for (layer, scale), chosen in mixed.chosen_cells().items():
                for key in (f"{layer}_{scale}_keep", f"{layer}_{scale}_halve"):
                    if chosen == operation and key in found:
                        assert found[key] == alone[key]
