"""Images that come without a test part: divided by content, near-duplicates together, and for good."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from nas_osr.data.sources.division import divide_images, group_alike
from nas_osr.data.sources.glances import glance_at, tell_size_and_colour

SHARE = 0.2


def photograph(seed: int) -> Image.Image:
    """Something smooth."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((120, 90), Image.Resampling.BICUBIC)


def write(folder: Path, seeds: range) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{seed:03}.png" for seed in seeds]
    for seed, path in zip(seeds, paths, strict=True):
        photograph(seed).save(path)
    return paths


def test_about_a_fifth_is_set_aside_and_always_the_same(tmp_path: Path) -> None:
    paths = write(tmp_path / "a", range(300))
    parts = divide_images(paths, SHARE)
    assert sorted(parts["train"] + parts["test"]) == paths and not set(parts["train"]) & set(parts["test"])
    assert stats.binomtest(len(parts["test"]), 300, SHARE).pvalue > 0.001
    # for good: whoever changes this gives trained models other test images
    own = {path: hashlib.sha256(path.read_bytes()).digest() for path in paths}
    place = {path: hashlib.sha256(b"0/" + digest).digest() for path, digest in own.items()}
    assert parts["test"] == [path for path in paths if int.from_bytes(place[path], "big") < SHARE * 2**256]


def test_names_and_other_images_are_without_effect(tmp_path: Path) -> None:
    paths = write(tmp_path / "a", range(60))
    contents = {path.read_bytes() for path in divide_images(paths, SHARE)["test"]}
    renamed = [path.rename(tmp_path / "a" / f"z{99 - index}.png") for index, path in enumerate(paths)]
    more = write(tmp_path / "a", range(100, 130))
    tested = divide_images(sorted(renamed + more), SHARE)["test"]
    assert {path.read_bytes() for path in tested if path in renamed} == contents
    fewer = divide_images(renamed[:40], SHARE)["test"]
    assert {path.read_bytes() for path in fewer} == {path.read_bytes() for path in renamed[:40]} & contents


def copies(image: Image.Image) -> list[Image.Image]:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=60)
    lighter = image.point(lambda value: min(255, int(value * 1.1 + 5)))
    return [image, Image.open(file), image.resize((61, 46)), lighter]


def test_near_duplicates_stay_together(tmp_path: Path) -> None:
    paths = []
    for seed in range(40):
        for index, image in enumerate(copies(photograph(seed))):
            paths.append(tmp_path / f"{index}-{seed}.png")
            image.save(paths[-1])
    groups = group_alike(glance_at(paths))
    assert len(set(groups)) == 40
    assert all(len(set(groups[4 * seed : 4 * seed + 4])) == 1 for seed in range(40))
    tested = {path.stem.split("-")[1] for path in divide_images(paths, SHARE)["test"]}
    trained = {path.stem.split("-")[1] for path in divide_images(paths, SHARE)["train"]}
    assert tested and not tested & trained


def test_few_images_are_in_both_parts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for count in range(2, 8):
        parts = divide_images(write(tmp_path / str(count), range(50 * count, 51 * count)), SHARE)
        assert parts["train"] and parts["test"]
    alone = write(tmp_path / "one", range(1))
    assert divide_images(alone, SHARE) == {"train": alone, "test": []}
    assert divide_images([], SHARE) == {"train": [], "test": []}
    (tmp_path / "same").mkdir()
    same = [tmp_path / "same" / f"{index}.jpg" for index in range(6)]
    for index, path in enumerate(same):
        photograph(1).save(path, quality=90 - index)
    parts = divide_images(same, SHARE)
    assert parts["train"] and parts["test"] and "same: all 6 images are nearly the same" in caplog.text


def test_images_of_one_level_are_not_alike_unless_they_are_equal(tmp_path: Path) -> None:
    paths = [tmp_path / f"{level}.png" for level in (10, 200, 10)]
    paths[2] = tmp_path / "again.png"
    for path, level in zip(paths, (10, 200, 10), strict=True):
        Image.new("RGB", (40, 40), (level, 0, 0)).save(path)
    assert group_alike(glance_at(paths)).tolist() == [0, 1, 0]


def test_what_cannot_be_read_is_left_to_reading(tmp_path: Path) -> None:
    paths = write(tmp_path / "a", range(5))
    paths[2].write_bytes(b"broken")
    paths[3].unlink()
    parts = divide_images(paths, SHARE)
    assert sorted(parts["train"] + parts["test"]) == paths
    assert tell_size_and_colour(paths, 32) == (True, False)
    assert tell_size_and_colour(paths[2:4], 32) == (False, True)
