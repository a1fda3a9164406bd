"""RandAugment, cutout, jitter and a function of one's own, against image by image versions."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from nas_osr.cli.main import main
from nas_osr.data.augmentation import CHANGES, AugmentationConfig, augment
from nas_osr.data.changes import cutout, jitter, randaugment
from nas_osr.data.single_changes import PIXMIX, RANDAUGMENT, change_each
from nas_osr.errors import UserError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", CHANGES)
def test_images_stay_images_and_equal_seeds_give_equal_ones(name: str, channels: int) -> None:
    images = torch.rand(40, channels, 16, 20, generator=seeded(1))
    before = images.clone()
    config = AugmentationConfig(name, changes=2, magnitude=20)
    changed = augment(images, config, seeded(2))
    assert changed.shape == images.shape and changed.dtype == images.dtype and torch.equal(images, before)
    assert 0 <= float(changed.min()) and float(changed.max()) <= 1 and not torch.equal(changed, images)
    assert torch.equal(changed, augment(images, config, seeded(2)))
    assert not torch.equal(changed, augment(images, config, seeded(3)))
    assert len(augment(images[:0], config, seeded())) == 0


@pytest.mark.parametrize("changes", [RANDAUGMENT, PIXMIX])
def test_each_image_gets_a_change_of_its_own(changes: Any) -> None:
    """All that there are, to either side, about equally often; and what an image gets does not depend on the others."""
    image = torch.rand(1, 3, 16, 16, generator=seeded(4))
    found = change_each(image.expand(2000, -1, -1, -1), changes, 0.7, seeded(5))
    expected = [change(image, sign * 0.7).clamp(0, 1)[0] for change in changes for sign in (-1, 1)]
    matches = torch.stack([(found - one).abs().amax((1, 2, 3)) < 1e-5 for one in expected])
    assert matches.any(dim=0).all()
    share = matches.double().mean(dim=1)
    for own, one in zip(share, expected, strict=True):  # some look the same either way
        same = sum(torch.allclose(one, other, atol=1e-5) for other in expected)
        assert abs(float(own) - same / len(expected)) < 4 * math.sqrt(same / len(expected) / 2000)


def test_full_strength_is_the_papers() -> None:
    """RandAugment's ranges (Cubuk et al. 2020, after AutoAugment), by torchvision's own functions on uint8 images."""
    image = (tv.gaussian_blur(torch.rand(1, 3, 32, 32, generator=seeded(6)), 5) * 255).round().to(torch.uint8)
    unit = image.float() / 255
    expected = {
        3: tv.affine(unit, 0.0, [round(150 / 331 * 32), 0], 1.0, [0.0]),
        5: tv.rotate(unit, -30.0, interpolation=tv.InterpolationMode.BILINEAR),
        6: tv.posterize(image, 4).float() / 255,
        7: tv.solarize(image, 0).float() / 255,
        8: tv.autocontrast(image).float() / 255,
        9: tv.equalize(image).float() / 255,
        10: tv.adjust_brightness(image, 1.9).float() / 255,
        11: tv.adjust_saturation(image, 1.9).float() / 255,
        12: tv.adjust_contrast(image, 1.9).float() / 255,
        13: tv.adjust_sharpness(image, 1.9).float() / 255,
    }
    for number, wanted in expected.items():
        error = (RANDAUGMENT[number](unit, 1.0).clamp(0, 1) - wanted).abs().flatten()
        assert float(error.quantile(0.9)) < (1 / 15 if number == 6 else 2.5 / 255), number
    slope = RANDAUGMENT[1](unit, 1.0)  # a shear leaves the middle rows, and moves the last by .3 of its distance
    torch.testing.assert_close(slope[:, :, 15], unit[:, :, 15], rtol=0, atol=0.2)
    assert math.tan(math.radians(16.7)) == pytest.approx(0.3, abs=1e-4)


def test_strength_nought_is_little() -> None:
    images = torch.rand(60, 3, 16, 16, generator=seeded(7)).mul(255).round().div(255)
    config = AugmentationConfig("randaugment", changes=1, magnitude=0)
    changed = (randaugment(images, config, seeded(8)) - images).abs().amax((1, 2, 3)) > 1e-5
    assert 0 < int(changed.sum()) < 20  # autocontrast and equalize alone have no strength


def test_cutout_takes_a_square_out_of_each_image() -> None:
    images = torch.rand(300, 3, 20, 24, generator=seeded(9))
    cut = cutout(images, AugmentationConfig("cutout", cutout=6), seeded(10))
    places = torch.rand(2, 300, generator=seeded(10))
    for image, result, y, x in zip(images, cut, *places, strict=True):
        top, left = int(y * 20) - 3, int(x * 24) - 3
        slow = image.clone()
        slow[:, max(0, top) : top + 6, max(0, left) : left + 6] = image.mean((1, 2))[:, None, None]
        torch.testing.assert_close(result, slow)


def test_jitter_varies_colours_within_its_range() -> None:
    grey = torch.full((500, 3, 4, 4), 0.4)
    light = jitter(grey, AugmentationConfig("jitter", jitter=0.5), seeded(11)).mean((1, 2, 3)) / 0.4
    assert 0.5 <= float(light.min()) < 0.55 and 1.45 < float(light.max()) <= 1.5
    images = torch.rand(5, 3, 4, 4, generator=seeded(12))
    torch.testing.assert_close(
        jitter(images, AugmentationConfig("jitter", jitter=0.0), seeded()), images, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("crop_flip,none", "none alone"),
        ("cutout,cutout", "name each once"),
        ("cut_out", "unknown augmentation 'cut_out'.*did you mean cutout"),
    ],
)
def test_a_wrong_list_is_one_line(recipe: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        AugmentationConfig(recipe)


def test_the_function_of_the_docs_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "how-to" / "own-network.md").read_text()
    [code] = re.findall(r"```python\n((?:(?!```).)*def darker.*?)```", page, flags=re.DOTALL)
    (tmp_path / "changes_of_the_docs.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    images = torch.rand(50, 3, 16, 16, generator=seeded(14))
    factors = (augment(images, "changes_of_the_docs.darker", seeded(15)) / images).mean((1, 2, 3))
    monkeypatch.delitem(sys.modules, "changes_of_the_docs")
    assert 0.5 <= float(factors.min()) < 0.55 and 0.95 < float(factors.max()) <= 1.0


def test_a_function_of_ones_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    module = ModuleType("my_changes")
    given: list[tuple[Any, ...]] = []

    def darker(images: Tensor, generator: torch.Generator) -> Tensor:
        given.append((images.shape, images.dtype, generator))
        return images * 3 - 1  # which is cut to [0, 1]

    module.darker, module.fewer, module.number = darker, lambda images, _: images[1:], 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_changes", module)
    images, generator = torch.rand(6, 1, 16, 16, generator=seeded(13)), seeded()
    changed = augment(images, AugmentationConfig("my_changes.darker"), generator)
    torch.testing.assert_close(changed, (images * 3 - 1).clamp(0, 1))
    assert given == [(images.shape, torch.float32, generator)]
    with pytest.raises(UserError, match=r"my_changes.fewer' gives \[5, 1, 16, 16\]"):
        augment(images, "my_changes.fewer", seeded())
    command = ["retrain", "--protocol", "digits", "--preset", "tiny", "--dry_run", "--out", str(tmp_path / "run")]
    module.alone, module.keyword = lambda images: images, lambda images, *, generator: images  # type: ignore[attr-defined]
    for name, message in (
        ("my_changes.absent", "no function absent"),
        ("my_changes.number", "no function number"),
        ("my_changes.alone", "'my_changes.alone' takes (images), and is called with images and a generator"),
        ("my_changes.keyword", "'my_changes.keyword' takes (images, *, generator), and is called with"),
    ):
        assert main([*command, f"--recipe_config.augmentation={name}"]) == 2
        assert message in capsys.readouterr().err
