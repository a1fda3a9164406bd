"""PixMix against its formulas, and the fractals that it mixes with."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from nas_osr.data.fractals import COUNT, all_fractals, cut_fractals, random_systems
from nas_osr.data.pixmix import mixing_weights, pixmix

CPU = torch.device("cpu")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_weights_are_betas() -> None:
    """Beta(3, 1) and Beta(1, 3) half of the time; else 1 + Beta(1, 3) and -Beta(1, 3)."""
    uniform = torch.rand(3, 20000, generator=seeded(1))
    own, other = (weight.flatten() for weight in mixing_weights(uniform, 3.0))
    together = uniform[2] < 0.5
    for values, kind in (
        (own[together], stats.beta(3, 1)),
        (other[together], stats.beta(1, 3)),
        (own[~together] - 1, stats.beta(1, 3)),
        (-other[~together], stats.beta(1, 3)),
    ):
        assert stats.kstest(values.numpy(), kind.cdf).pvalue > 1e-3


def test_images_are_mixed_nought_to_k_times() -> None:
    """One in k + 1 is not mixed at all, and half of these not even changed."""
    images = torch.rand(400, 3, 16, 16, generator=seeded(2))
    mixed = pixmix(images, 3, 3.0, 0.3, seeded(3))
    same = (mixed == images).flatten(1).all(dim=1).double().mean()
    assert abs(float(same) - 1 / 8) < 0.06
    assert torch.isfinite(mixed).all() and 0 <= float(mixed.min()) and float(mixed.max()) <= 1


def test_a_larger_blend_leaves_more_of_an_image() -> None:
    images = torch.rand(200, 3, 16, 16, generator=seeded(4))
    near, far = (float((pixmix(images, 4, blend, 0.0, seeded(5)) - images).square().mean()) for blend in (10.0, 1.0))
    assert near < far / 2


@pytest.fixture(scope="module")
def pool() -> torch.Tensor:
    return all_fractals(3, 16, 16, CPU)


def test_fractals_are_different_pictures_and_always_the_same(pool: torch.Tensor) -> None:
    assert pool.shape == (COUNT, 3, 24, 24) and 0 <= float(pool.min()) and float(pool.max()) <= 1
    assert float((pool.std(dim=(2, 3)).mean(dim=1) > 0.03).double().mean()) > 0.9  # hardly any is of one colour
    assert len({picture.numpy().tobytes() for picture in pool}) == COUNT
    before = pool.clone()
    all_fractals.cache_clear()
    assert torch.equal(all_fractals(3, 16, 16, CPU), before)


def test_parts_of_fractals_are_cut_out(pool: torch.Tensor) -> None:
    images = torch.zeros(5, 3, 16, 16)
    parts = cut_fractals(200, images, seeded(6))
    assert parts.shape == (200, 3, 16, 16) and len({part.numpy().tobytes() for part in parts}) > 190
    windows = pool.unfold(2, 16, 1).unfold(3, 16, 1)  # [COUNT, 3, 9, 9, 16, 16]
    for part in parts[:10]:
        both = [(windows == view[None, :, None, None]).all(-1).all(-1).all(1).any() for view in (part, part.flip(2))]
        assert any(both)
    assert cut_fractals(3, torch.zeros(1, 1, 16, 16), seeded()).shape == (3, 1, 16, 16)


def test_systems_contract() -> None:
    linear, shift = random_systems(200, seeded(7))
    values = torch.linalg.svdvals(linear)
    assert float(values.max()) <= 0.951 and shift.shape == (200, 3, 2)
    assert float((values * torch.tensor([1.0, 2.0])).sum((1, 2)).max()) <= 4.26
