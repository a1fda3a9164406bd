"""Augmentation against slow per-image versions, and its properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import functional as tvf

from nas_osr.data.augmentation import AugmentationConfig, augment, default_augmentation, flipped_now
from nas_osr.data.protocols import make_protocol
from nas_osr.errors import UserError

STILL = {"scale": (1.0, 1.0), "aspect": 1.0, "rotation": 0.0, "flip": False, "padding": 0}
shapes = st.tuples(st.integers(1, 5), st.sampled_from([1, 3]), st.integers(4, 20), st.integers(4, 20))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(deadline=None)
@given(shapes, st.sampled_from(["none", "search", "crop_flip"]), st.integers(0, 2**31))
def test_range_shape_and_determinism(shape: tuple[int, ...], recipe: str, seed: int) -> None:
    images = torch.rand(shape, generator=seeded(1))
    before = images.clone()
    result = augment(images, recipe, seeded(seed))
    assert result.shape == images.shape and result.dtype == images.dtype
    assert 0 <= float(result.min()) and float(result.max()) <= 1
    assert torch.equal(result, augment(images, recipe, seeded(seed)))
    assert torch.equal(images, before)


@settings(deadline=None)
@given(shapes, st.sampled_from(["search", "crop_flip"]), st.integers(0, 2**31))
def test_zero_magnitudes_change_nothing(shape: tuple[int, ...], recipe: str, seed: int) -> None:
    images = torch.rand(shape, generator=seeded(2))
    torch.testing.assert_close(augment(images, AugmentationConfig(recipe, **STILL), seeded(seed)), images)


@settings(deadline=None)
@given(shapes, st.integers(0, 2**31), st.integers(0, 5), st.booleans())
def test_crop_flip_equals_a_per_image_loop(shape: tuple[int, ...], seed: int, padding: int, flip: bool) -> None:
    images = torch.rand(shape, generator=seeded(3))
    count, _, height, width = shape
    fast = augment(images, AugmentationConfig("crop_flip", flip=flip, padding=padding), seeded(seed))
    draws = torch.rand(3, count, generator=seeded(seed))  # the documented order: top, left, mirrored
    for index, image in enumerate(images):
        top, left = (int(draw * (2 * padding + 1)) for draw in draws[:2, index])
        slow = tvf.crop(tvf.pad(image, [padding]), top, left, height, width)
        slow = tvf.hflip(slow) if flip and draws[2, index] < 0.5 else slow
        assert torch.equal(fast[index], slow)


def test_a_reflected_border_shows_the_image_again() -> None:
    """Against numpy's padding, image by image."""
    images = torch.rand(20, 2, 6, 9, generator=seeded(4))
    config = AugmentationConfig("crop_flip", padding=5, border="reflect")
    fast = augment(images, config, seeded(5))
    draws = torch.rand(3, 20, generator=seeded(5))
    for index, image in enumerate(images):
        top, left = (int(draw * 11) for draw in draws[:2, index])
        slow = np.pad(image.numpy(), ((0, 0), (5, 5), (5, 5)), mode="reflect")[:, top : top + 6, left : left + 9]
        assert np.array_equal(fast[index], slow[:, :, ::-1] if draws[2, index] < 0.5 else slow)


def test_alternating_flips_show_each_image_both_ways_in_turn() -> None:
    flips = [flipped_now(1000, 7, epoch) for epoch in range(4)]
    assert torch.equal(flips[0], ~flips[1]) and torch.equal(flips[0], flips[2]) and torch.equal(flips[1], flips[3])
    assert 450 < int(flips[0].sum()) < 550 and not torch.equal(flips[0], flipped_now(1000, 8, 0))
    images = torch.rand(8, 3, 16, 16)
    for recipe in ("search", "crop_flip"):  # which then mirrors nothing itself
        config = AugmentationConfig(recipe, **{**STILL, "flip": True}, flips="alternating")
        assert config.alternates
        torch.testing.assert_close(augment(images, config, seeded()), images)
    assert not AugmentationConfig("crop_flip", flip=False, flips="alternating").alternates  # digits


@pytest.mark.parametrize("recipe", ["search", "crop_flip"])
def test_every_image_is_varied_on_its_own(recipe: str) -> None:
    images = torch.rand(1, 3, 16, 16, generator=seeded()).expand(64, -1, -1, -1).contiguous()
    distinct = {image.numpy().tobytes() for image in augment(images, recipe, seeded())}
    assert len(distinct) > (60 if recipe == "search" else 40)


@pytest.mark.parametrize("recipe", ["search", "crop_flip"])
def test_half_of_the_images_are_mirrored_or_none(recipe: str) -> None:
    ramp = torch.linspace(0, 1, 16).expand(400, 1, 16, 16).contiguous()
    centre = slice(6, 10)

    def share(flip: bool) -> float:
        still = {**STILL, "flip": flip}
        result = augment(ramp, AugmentationConfig(recipe, **still), seeded())
        return float((result[:, 0, 8, centre].diff().sum(1) < 0).float().mean())

    assert share(flip=False) == 0
    assert 0.4 < share(flip=True) < 0.6


def test_rotation_equals_torchvision() -> None:
    images = torch.rand(6, 3, 24, 24, generator=seeded(4))
    config = AugmentationConfig("search", **{**STILL, "rotation": 30.0})
    fast = augment(images, config, seeded(5))
    angles = 30.0 * (2 * torch.rand(6, 6, generator=seeded(5))[5] - 1)
    inner = slice(6, 18)  # borders are blended with black in slightly different ways
    for index, angle in enumerate(angles):
        both = [
            tvf.rotate(images[index], sign * float(angle), tvf.InterpolationMode.BILINEAR)[:, inner, inner]
            for sign in (1, -1)
        ]
        assert min(float((fast[index][:, inner, inner] - slow).abs().max()) for slow in both) < 1e-4


def test_oblong_images_are_rotated_without_shear() -> None:
    """A square drawn in the middle of an oblong image keeps its area and its diagonal lengths."""
    images = torch.zeros(50, 1, 32, 64)
    images[:, :, 8:24, 24:40] = 1
    rotated = augment(images, AugmentationConfig("search", **{**STILL, "rotation": 45.0}), seeded())
    rows, columns = torch.meshgrid(torch.arange(32.0) - 15.5, torch.arange(64.0) - 31.5, indexing="ij")
    spread = [(rotated[:, 0] * weight).sum((1, 2)) / 256 for weight in (rows**2, columns**2, torch.ones_like(rows))]
    for moment, expected in zip(spread, ((16**2 - 1) / 12, (16**2 - 1) / 12, 1.0), strict=True):
        assert float((moment / expected - 1).abs().max()) < 0.03


def test_crops_cover_the_asked_share_and_stay_inside() -> None:
    """The image holds its own coordinates, so that a result says which part of the image it shows."""
    size = 64
    axis = (torch.arange(size) + 0.5) / size
    images = torch.stack([axis.expand(size, size), axis[:, None].expand(size, size)]).expand(300, 2, size, size)
    result = augment(images.contiguous(), AugmentationConfig("search", rotation=0.0, flip=False), seeded())
    middle = size // 2
    width = (result[:, 0, middle, middle + 8] - result[:, 0, middle, middle - 8]) * size / 16
    height = (result[:, 1, middle + 8, middle] - result[:, 1, middle - 8, middle]) * size / 16
    area, aspect = width * height, width / height
    assert 0.8 - 1e-3 < float(area.min()) < 0.83 and 0.97 < float(area.max()) < 1 + 1e-3
    assert float(width.max()) < 1 + 1e-3 and float(height.max()) < 1 + 1e-3
    assert 0.75 < float(aspect.min()) < 0.9 and 1.1 < float(aspect.max()) < 4 / 3
    assert float(aspect.log().mean()) == pytest.approx(0, abs=0.02)
    left, top = result[:, 0, middle, 0] - width / size / 2, result[:, 1, 0, middle] - height / size / 2
    for start, extent in ((left, width), (top, height)):
        assert float(start.min()) > -0.01 and float((start + extent).max()) < 1.01
    assert np.corrcoef(left, top)[0, 1] == pytest.approx(0, abs=0.2)


def test_search_equals_an_affine_grid() -> None:
    """The same resampling through torch's own affine_grid, image by image in double precision."""
    images = torch.rand(8, 3, 20, 28, generator=seeded(6))
    fast = augment(images, "search", seeded(7))
    draws = torch.rand(6, 8, generator=seeded(7)).double()
    for index in range(8):
        area, aspect, shift_x, shift_y, mirrored, angle = (float(draw) for draw in draws[:, index])
        area = 0.8 + 0.2 * area
        limit = min(math.log(4 / 3), -math.log(area))
        ratio = math.exp(limit * (2 * aspect - 1))
        width, height = math.sqrt(area * ratio), math.sqrt(area / ratio)
        radians = math.radians(10) * (2 * angle - 1)
        scale = torch.tensor([14.0, 10.0]).double().diag()  # to pixels
        turn = torch.tensor([[math.cos(radians), -math.sin(radians)], [math.sin(radians), math.cos(radians)]]).double()
        crop = torch.tensor([width * (-1 if mirrored < 0.5 else 1), height]).double().diag()
        shift = torch.tensor([(1 - width) * (2 * shift_x - 1), (1 - height) * (2 * shift_y - 1)]).double()
        theta = torch.cat([crop @ scale.inverse() @ turn @ scale, shift[:, None]], dim=1)[None]
        grid = torch.nn.functional.affine_grid(theta, [1, 3, 20, 28], align_corners=False)
        slow = torch.nn.functional.grid_sample(images[index : index + 1].double(), grid, align_corners=False)[0]
        torch.testing.assert_close(fast[index].double(), slow, atol=1e-4, rtol=0)


def test_digits_are_not_mirrored() -> None:
    flips = {name: default_augmentation(make_protocol(name)).flip for name in ("digits", "mnist", "svhn", "cifar10")}
    assert flips == {"digits": False, "mnist": False, "svhn": False, "cifar10": True}
    assert default_augmentation(make_protocol("cifar10"), "crop_flip").recipe == "crop_flip"


@pytest.mark.parametrize(
    "arguments",
    [{"recipe": "blur"}, {"scale": (0.0, 1.0)}, {"scale": (0.9, 0.8)}, {"aspect": 0.5}, {"padding": -1}],
)
def test_mistakes(arguments: dict) -> None:
    with pytest.raises(UserError, match="(?i)augmentation"):
        AugmentationConfig(**arguments)


def test_no_images() -> None:
    assert augment(torch.empty(0, 3, 8, 8), "search", seeded()).shape == (0, 3, 8, 8)


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", ["search", "crop_flip"])
def test_a_cpu_generator_gives_the_same_on_a_gpu(recipe: str) -> None:
    images = torch.rand(8, 3, 32, 32, generator=seeded())
    on_gpu = augment(images.cuda(), recipe, seeded(1))
    assert on_gpu.is_cuda
    torch.testing.assert_close(on_gpu.cpu(), augment(images, recipe, seeded(1)), atol=1e-4, rtol=0)
    own = torch.Generator(device="cuda").manual_seed(1)
    assert augment(images.cuda(), recipe, own).shape == images.shape
