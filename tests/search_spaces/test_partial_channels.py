"""Partial channels (PC-DARTS): what passes by, against loops; and a supernet of one part of its channels."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nas_osr.errors import UserError
from nas_osr.search_spaces.checks import check_partial
from nas_osr.search_spaces.mixtures import pass_by
from nas_osr.search_spaces.presets import space_of
from nas_osr.search_spaces.space import Space
from nas_osr.search_spaces.supernet import MixedOperation, Supernet, build_supernet

SPACE = Space(layers=4, channels=16, branches=(0, 1, 2))


def build(parts: int) -> Supernet:
    torch.manual_seed(0)
    return build_supernet(SPACE, 3, (0.0,) * 3, (1.0,) * 3, parts).to(memory_format=torch.channels_last)


def by_loops(made: Tensor, rest: Tensor, parts: int) -> Tensor:
    channels = [made[:, channel] for channel in range(made.shape[1])]
    if made.shape[-1] < rest.shape[-1]:
        squares = [rest[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        largest, mean = torch.stack(squares).amax(dim=0), torch.stack(squares).mean(dim=0)
        channels += [maps[:, channel] for maps in (largest, mean) for channel in range(maps.shape[1])]
    else:
        channels += [rest[:, channel] for channel in range(rest.shape[1])]
    size = len(channels) // parts
    return torch.stack([channels[part * size + place] for place in range(size) for part in range(parts)], dim=1)


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("halves", [False, True])
def test_the_others_pass_by_and_all_are_shuffled(parts: int, halves: bool) -> None:
    maps, own = torch.randn(2, 8, 4, 6), 8 // parts
    made = torch.randn(2, 2 * own, 2, 3) if halves else torch.randn(2, own, 4, 6)
    found = pass_by(made, maps[:, own:], parts)
    assert torch.allclose(found, by_loops(made, maps[:, own:], parts), atol=1e-6)
    assert found.shape == ((2, 16, 2, 3) if halves else (2, 8, 4, 6))


def test_one_part_is_the_plain_supernet_bit_for_bit() -> None:
    supernet = build(1).train()
    torch.manual_seed(0)
    plain = build_supernet(SPACE, 3, (0.0,) * 3, (1.0,) * 3).to(memory_format=torch.channels_last).train()
    images = torch.rand(2, 3, 32, 32)
    for one, other in zip(supernet(images).branches.values(), plain(images).branches.values(), strict=True):
        assert torch.equal(one, other)
    # and so is what the others pass by, when there are none
    form = next(module for module in supernet.network.modules() if isinstance(module, MixedOperation))
    x = torch.randn(3, 16, 8, 8).contiguous(memory_format=torch.channels_last)
    assert torch.equal(pass_by(form.mixed(x[:, :16]), x[:, 16:], 1), form(x))


def test_a_supernet_of_a_fourth_of_its_channels() -> None:
    whole, partial = build(1), build(4)
    images = torch.rand(2, 3, 32, 32)
    shapes = [{s: m.shape for s, m in net.train()(images).branches.items()} for net in (whole, partial)]
    assert shapes[0] == shapes[1]
    cells = [sum(p.numel() for p in net.network.keep.parameters()) for net in (whole, partial)]
    assert cells[1] < cells[0] / 12  # convolutions have a sixteenth
    total = sum(maps.mean() for maps in partial(images).branches.values())
    total.backward()
    for label, logits in partial.architecture_parameters.items():
        assert logits.grad is not None and torch.isfinite(logits.grad).all(), label
    assert all(p.grad is not None for p in partial.network.keep["1_0"].parameters())


def test_what_cannot_be_parted() -> None:
    check_partial(SPACE, 4, (3, 32, 32))
    for parts in (3, 8):
        with pytest.raises(UserError, match="must divide channels, 16, into parts of 4 at least"):
            check_partial(SPACE, parts, (3, 32, 32))
    wide = space_of("wide", "tiny")
    with pytest.raises(UserError, match=r"needs whole widths, got 0.5, 1.0 to choose from: give --widths 1"):
        check_partial(wide, 2, (3, 32, 32))
    check_partial(replace(wide, widths=(1.0,)), 2, (3, 32, 32))  # what the message tells one to give


def test_a_supernet_of_the_wide_space_at_one_width() -> None:
    space = replace(space_of("wide", "tiny"), widths=(1.0,))
    supernet = build_supernet(space, 3, (0.0,) * 3, (1.0,) * 3, 2).to(memory_format=torch.channels_last)
    last = supernet.train()(torch.rand(2, 3, 32, 32)).branches[2]
    assert last.shape[1] == 4 * space.channels and torch.isfinite(last).all()
