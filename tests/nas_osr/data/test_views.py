"""Views against torchvision, image by image, and their statistics."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf

from nas_osr.data import views as module
from nas_osr.data.views import ViewConfig, random_views
from nas_osr.errors import UserError

STILL = ViewConfig(
    flip=False, scale=(1.0, 1.0), aspect=1.0, brightness=0, contrast=0, saturation=0, hue=0, grey_probability=0
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int = 12, channels: int = 3, height: int = 16, width: int = 20) -> Tensor:
    """Random images with black, white, grey and saturated pixels among them."""
    images = torch.rand(count, channels, height, width, generator=seeded(1))
    images[:, :, 0], images[:, :, 1], images[:, :, 2] = 0.0, 1.0, 0.5
    images[:, :, 3] = images[:, :, 3].round()
    return images


@pytest.mark.parametrize(
    ("name", "channels"),
    [("brightness", 3), ("contrast", 3), ("saturation", 3), ("hue", 3), ("brightness", 1), ("contrast", 1)],
)
def test_colour_changes_equal_torchvision(name: str, channels: int) -> None:
    images = pictures(channels=channels)
    low, high = (-0.5, 0.5) if name == "hue" else (0.0, 2.0)
    factors = torch.linspace(low, high, len(images))
    ours = getattr(module, f"adjust_{name}")(images, factors)
    for image, factor, result in zip(images, factors, ours, strict=True):
        torch.testing.assert_close(result, getattr(tvf, f"adjust_{name}")(image, float(factor)), atol=2e-6, rtol=0)


def test_grey_equals_torchvision() -> None:
    images = pictures()
    torch.testing.assert_close(module.grey(images), tvf.rgb_to_grayscale(images, num_output_channels=3))


@pytest.mark.parametrize("mirrored", [False, True])
def test_crop_of_whole_pixels_equals_torchvision(mirrored: bool) -> None:
    """Away from the crop's edges, where ours sees the pixels beyond."""
    images = pictures(4, height=16, width=24)
    top, left, height, width = (torch.tensor(values) for values in ([0, 2, 4, 8], [12, 0, 3, 8], [8] * 4, [12] * 4))
    ours = module.crop(
        images, (left + width / 2) / 24, (top + height / 2) / 16, width / 24, height / 16, torch.full((4,), mirrored)
    )
    for index in range(4):
        box = (int(top[index]), int(left[index]), 8, 12)
        slow = tvf.resized_crop(images[index], *box, [16, 24], antialias=False)
        slow = tvf.hflip(slow) if mirrored else slow
        torch.testing.assert_close(ours[index, :, 1:-1, 1:-1], slow[:, 1:-1, 1:-1], atol=1e-5, rtol=0)


def test_the_whole_image_as_crop_changes_nothing() -> None:
    images = pictures()
    torch.testing.assert_close(random_views(images, STILL, seeded()), images, atol=2e-6, rtol=0)


def test_crops_have_the_asked_area_and_aspect_and_stay_inside() -> None:
    x, y, width, height = module.random_crops(torch.rand(4, 4000, generator=seeded()), ViewConfig())
    area, aspect = width * height, width / height
    assert 0.2 <= area.min() < 0.21 and 0.99 < area.max() <= 1 + 1e-6
    assert area.mean() == pytest.approx(0.6, abs=0.01)
    assert 0.75 - 1e-6 <= aspect.min() < 0.76 and 1.32 < aspect.max() <= 4 / 3 + 1e-6
    assert aspect.log().mean().abs() < 0.01
    for centre, side in ((x, width), (y, height)):
        assert (centre - side / 2).min() >= -1e-6 and (centre + side / 2).max() <= 1 + 1e-6
        assert centre.mean() == pytest.approx(0.5, abs=0.01)
    small = area < 0.3
    assert aspect[small].log().std() == pytest.approx(math.log(4 / 3) / math.sqrt(3), rel=0.05)


@settings(deadline=None)
@given(
    st.tuples(st.integers(0, 4), st.sampled_from([1, 3, 4]), st.integers(2, 18), st.integers(2, 18)),
    st.integers(0, 2**31),
)
def test_range_shape_and_determinism(shape: tuple[int, ...], seed: int) -> None:
    images = torch.rand(shape, generator=seeded(3))
    before = images.clone()
    result = random_views(images, None, seeded(seed))
    assert result.shape == images.shape and result.dtype == images.dtype
    assert bool(((result >= 0) & (result <= 1)).all())
    assert torch.equal(result, random_views(images, None, seeded(seed)))
    assert torch.equal(images, before)


def test_without_a_generator_the_global_one_decides() -> None:
    images = pictures()
    torch.manual_seed(4)
    first, second = random_views(images), random_views(images)
    torch.manual_seed(4)
    assert torch.equal(first, random_views(images)) and not torch.equal(first, second)


def test_every_image_is_varied_on_its_own() -> None:
    same = pictures(1).expand(40, -1, -1, -1)
    assert len({view.numpy().tobytes() for view in random_views(same, None, seeded())}) == 40
    only_colours = ViewConfig(flip=False, scale=(1.0, 1.0), aspect=1.0)
    changed = (random_views(pictures(1).expand(1000, -1, -1, -1), only_colours, seeded()) - pictures(1)).abs()
    # a fifth keeps its colours, and a fifth of those loses them to grey
    assert float((changed.amax((1, 2, 3)) < 1e-5).float().mean()) == pytest.approx(0.2 * 0.8, abs=0.04)


def test_a_fifth_is_grey_and_half_is_mirrored() -> None:
    ramp = torch.linspace(0, 1, 16).expand(1000, 3, 16, 16) * torch.tensor([1.0, 0.6, 0.3])[:, None, None]
    views = random_views(ramp, ViewConfig(), seeded())
    spread = (views.amax(1) - views.amin(1)).amax((1, 2))
    assert float((spread < 1e-4).float().mean()) == pytest.approx(0.2, abs=0.04)

    def mirrored(flip: bool) -> float:
        views = random_views(ramp, ViewConfig(flip=flip), seeded()).sum((1, 2))
        return float((views[:, -1] < views[:, 0]).float().mean())

    assert mirrored(flip=False) == 0.0 and mirrored(flip=True) == pytest.approx(0.5, abs=0.05)


def test_one_channel_varies_in_brightness_and_contrast() -> None:
    flat = torch.full((200, 1, 8, 8), 0.5)
    views = random_views(flat, ViewConfig(jitter_probability=1.0, contrast=0.0), seeded())
    levels = views.mean((1, 2, 3))
    assert levels.min() == pytest.approx(0.3, abs=0.01) and levels.max() == pytest.approx(0.7, abs=0.01)
    half = torch.cat([torch.full((200, 1, 8, 4), 0.25), torch.full((200, 1, 8, 4), 0.75)], dim=3)
    still = ViewConfig(flip=False, scale=(1.0, 1.0), aspect=1.0, brightness=0.0, jitter_probability=1.0)
    views = random_views(half, still, seeded())
    spread = views.amax((1, 2, 3)) - views.amin((1, 2, 3))
    assert spread.min() == pytest.approx(0.3, abs=0.02) and spread.max() == pytest.approx(0.7, abs=0.02)
    torch.testing.assert_close(views.mean((1, 2, 3)), torch.full((200,), 0.5))


def test_colour_changes_come_in_every_order(monkeypatch: pytest.MonkeyPatch) -> None:
    orders = set()
    names = ["brightness", "contrast", "saturation", "hue"]
    calls: list[str] = []
    for name in names:
        real = getattr(module, f"adjust_{name}")
        monkeypatch.setattr(
            module, f"adjust_{name}", lambda x, factor, name=name, real=real: (calls.append(name), real(x, factor))[1]
        )
    for seed in range(200):
        calls.clear()
        random_views(pictures(1), None, seeded(seed))
        assert sorted(calls) == sorted(names)
        orders.add(tuple(calls))
    assert len(orders) == 24


@pytest.mark.parametrize(
    "mistake",
    [
        {"scale": (0.0, 1.0)},
        {"scale": (0.9, 0.2)},
        {"aspect": 0.9},
        {"hue": 0.6},
        {"brightness": -0.1},
        {"grey_probability": 1.5},
    ],
)
def test_mistakes(mistake: dict) -> None:
    with pytest.raises(UserError, match=f"views: {next(iter(mistake))}"):
        ViewConfig(**mistake)


@pytest.mark.gpu
def test_a_cpu_generator_gives_the_same_on_a_gpu() -> None:
    images = pictures()
    on_gpu = random_views(images.cuda(), None, seeded(1))
    torch.testing.assert_close(on_gpu.cpu(), random_views(images, None, seeded(1)), atol=1e-4, rtol=0)
    assert random_views(images.cuda()).is_cuda
