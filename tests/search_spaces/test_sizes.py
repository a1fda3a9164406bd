"""What is said of how large things are, against networks that are really built."""

from __future__ import annotations

import torch

from nas_osr.search_spaces.architectures.references import published
from nas_osr.search_spaces.architectures.sampling import sample_architecture
from nas_osr.search_spaces.network import DiscreteNetwork
from nas_osr.search_spaces.presets import space_of
from nas_osr.search_spaces.sizes import describe_architecture, describe_space, describe_supernet
from nas_osr.search_spaces.space import Space
from nas_osr.search_spaces.supernet import build_supernet
from nas_osr.search_spaces.zero_cost.counts import count_macs_of_encoder, count_parameters


def test_spaces() -> None:
    assert describe_space(Space()) == "7,290 architectures, 2,439 different networks"
    assert describe_space(Space(4, 16, ("conv",), branches=(0, 2))) == "3 architectures"
    assert describe_space(Space(64, 16, branches=(0, 1, 2))) == "more architectures than are counted"
    wide = space_of("wide", "tiny")
    # to 1/8 three paths, to 1/16 three, of four cells with ten operations; 3 x 4 x 3 choices and 2 widths a scale
    assert describe_space(wide).startswith(f"{6 * 10**4 * 36 * 8:,} architectures")


def test_networks() -> None:
    """On torch's meta device as on a real one, whose random state stays as it is."""
    assert describe_architecture(published(), (3, 32, 32)).startswith("network: ")
    for space in (space_of("paper", "tiny"), space_of("wide", "tiny")):
        architecture = sample_architecture(space, 2)
        state = torch.random.get_rng_state()
        said = describe_architecture(architecture, (1, 32, 32)), describe_supernet(space, (1, 32, 32))
        assert torch.equal(state, torch.random.get_rng_state())
        with torch.random.fork_rng():
            built = DiscreteNetwork(architecture, 1, (0.0,), (1.0,)), build_supernet(space, 1, (0.0,), (1.0,))
        for line, encoder in zip(said, built, strict=True):
            macs = count_macs_of_encoder(encoder, torch.rand(1, 1, 32, 32))
            shown = f"{macs / 1e6:.2f}M" if macs >= 1e6 else f"{macs / 1e3:.2f}k"
            assert f"{count_parameters(encoder) / 1e3:.2f}k parameters, " in line
            assert f"{shown} multiply-accumulates an image of 1x32x32" in line
