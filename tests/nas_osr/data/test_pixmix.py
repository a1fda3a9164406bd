"""PixMix against its formulas, one image at a time, and the fractals that it mixes with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from nas_osr.data import pixmix as module
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


def weights(first: float, second: float, together: float, blend: float) -> tuple[float, float]:
    """a and b of the authors' `get_ab`, as quantiles of their Beta distributions."""
    if together < 0.5:
        return stats.beta(blend, 1).ppf(first), stats.beta(1, blend).isf(second)
    return 1 + stats.beta(1, blend).isf(first), -stats.beta(1, blend).isf(second)


def mix_one(image: np.ndarray, other: np.ndarray, a: float, b: float, summed: bool) -> np.ndarray:
    """The authors' `add` and `multiply` of two images in [0, 1], cut to [0, 1]."""
    if summed:
        mixed = (a * (2 * image - 1) + b * (2 * other - 1) + 1) / 2
    else:
        mixed = (2 * image) ** a * np.maximum(2 * other, 1e-37) ** b / 2
    return np.clip(mixed, 0, 1)


@pytest.mark.parametrize("blend", [3.0, 1.5])
@pytest.mark.parametrize("rounds", [1, 4])
def test_every_image_is_mixed_as_the_paper_says(rounds: int, blend: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Image by image in NumPy, from the same draws and from what images were mixed with."""
    count = 80
    images = torch.rand(count, 3, 8, 8, generator=seeded(8))
    images[0], images[1] = 0.0, 1.0  # black and white: powers of 0, and what is cut
    mates: list[np.ndarray] = []  # the images themselves changed; then, round by round, changed images and fractals

    def kept(function: Any) -> Any:
        def call(*args: Any) -> torch.Tensor:
            if isinstance(args[0], torch.Tensor):  # images as they came are changed, not what they are mixed to
                assert (args[0][:, None] == images).flatten(2).all(dim=2).any(dim=1).all()
            found: torch.Tensor = function(*args)
            mates.append(found.double().numpy())
            return found

        return call

    for name in ("change_each", "cut_fractals"):
        monkeypatch.setattr(module, name, kept(getattr(module, name)))
    found = pixmix(images, rounds, blend, 0.3, seeded(9)).numpy()

    draws = torch.rand(2 + 5 * rounds, count, generator=seeded(9)).double().numpy()
    queues = [iter(several) for several in mates[1:]]
    kinds = set()
    for i in range(count):
        expected = mates[0][i] if draws[1, i] < 0.5 else images[i].double().numpy()
        turns = int(draws[0, i] * (rounds + 1))
        for turn in range(turns):
            own, summed, *rest = draws[2 + 5 * turn : 7 + 5 * turn, i]
            other = next(queues[2 * turn + (own >= 0.5)])
            expected = mix_one(expected, other, *weights(*rest, blend), summed < 0.5)
            kinds.add((own < 0.5, summed < 0.5, rest[2] < 0.5))
        np.testing.assert_allclose(found[i], expected, rtol=0, atol=2e-5)
    assert len(kinds) == 8 and all(next(queue, None) is None for queue in queues)


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
