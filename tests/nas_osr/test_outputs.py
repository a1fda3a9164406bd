"""The container of inference results, and the seeds of random streams."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from nas_osr.outputs import Outputs
from nas_osr.seeds import derive_seed, make_generator


def test_outputs_select_concatenate_and_count() -> None:
    outputs = Outputs(logits=torch.arange(12.0).view(4, 3), latent_mean=torch.arange(4.0)[:, None])
    assert len(outputs) == 4 and outputs.available() == {"logits", "latent_mean"} and len(Outputs()) == 0
    first, rest = outputs[:1], outputs[1:]
    again = Outputs.concatenate([first, rest])
    assert again.logits is not None and outputs.logits is not None
    assert torch.equal(again.logits, outputs.logits) and again.distances is None
    picked = outputs[torch.tensor([True, False, False, True])]
    assert picked.latent_mean is not None and picked.latent_mean.flatten().tolist() == [0.0, 3.0]
    doubled = outputs.map(lambda tensor: 2 * tensor)
    assert doubled.latent_mean is not None and doubled.latent_mean.flatten().tolist() == [0.0, 2.0, 4.0, 6.0]


@given(st.integers(0, 2**31), st.lists(st.one_of(st.text(max_size=5), st.integers(0, 99)), max_size=3))
def test_seeds_are_stable_and_in_range(seed: int, names: list) -> None:
    value = derive_seed(seed, *names)
    assert value == derive_seed(seed, *names) and 0 <= value < 2**63
    assert value != derive_seed(seed + 1, *names) and value != derive_seed(seed, *names, "more")


def test_known_seed() -> None:
    """Fixed for good: published runs depend on it."""
    assert derive_seed(0, "epoch", 1) == 123735704575244949
    drawn = torch.randint(1000, (3,), generator=make_generator(0, "epoch", 1))
    assert torch.equal(drawn, torch.randint(1000, (3,), generator=make_generator(0, "epoch", 1)))
