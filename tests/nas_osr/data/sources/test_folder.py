"""A user's own folders: layouts, names, size and colour, and what comes or goes later."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nas_osr.data.dataset import load_data
from nas_osr.data.protocols import Protocol, make_protocol, with_unknown
from nas_osr.data.sources import open_source
from nas_osr.errors import UserError

NASTY = ("0", "01", "1", "1e3", "10", "2", "a, b", "it's", "no", "null", "true", "~", "[a]", "é ü", '"', "#x", "a: b")


def paint(folder: Path, count: int, level: int = 0, side: int = 32, *, grey: bool = False) -> None:
    """Noise, darker or lighter by the level."""
    generator = np.random.default_rng([level, count])
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        pixels = generator.integers(0, 256, (side, side, 1 if grey else 3), dtype=np.uint8)
        Image.fromarray(pixels.squeeze()).save(folder / f"{index:02}.png")


def pixels(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    """Class folders 0 1 2 10 11, which sort as 0 1 10 11 2."""
    for level, name in enumerate(("0", "1", "2", "10", "11")):
        paint(tmp_path / name, 12, level)
    return tmp_path


@pytest.mark.parametrize("known", [[0, 1, 2], ["0", "1", "2"], np.array([0, 1, 2]).tolist(), [np.int64(0), "1", 2]])
def test_numbers_are_names(numbers: Path, known: list[Any]) -> None:
    from nas_osr.configuration import make_request
    from nas_osr.requests import DataOptions

    request = make_request(DataOptions, {"protocol": "folder", "known": known, "data_dir": numbers}, "here")
    protocol = request.published_protocol(0)
    assert protocol.class_names == ("0", "1", "2") and protocol.unknown == ("10", "11")
    data = load_data(protocol, numbers)
    for label, name in enumerate(protocol.class_names):
        found = pixels(torch.cat([part.images[part.labels == label] for part in (data.train, data.validation)]))
        files = {np.asarray(Image.open(path)).transpose(2, 0, 1).tobytes() for path in (numbers / name).iterdir()}
        assert found < files and len(found) > 6


def test_every_name_of_a_folder_is_a_class(tmp_path: Path) -> None:
    for level, name in enumerate(NASTY):
        paint(tmp_path / name, 3, level)
    protocol = make_protocol("folder", known=NASTY[:9], data_dir=tmp_path)
    assert protocol.known_classes == NASTY[:9] and set(protocol.unknown) == set(NASTY[9:])
    assert Protocol.from_dict(protocol.to_dict()) == protocol
    with pytest.raises(UserError, match="True is no name of a class: put it in quotes"):
        make_protocol("folder", known=[True, "0"], data_dir=tmp_path)
    with pytest.raises(UserError, match="has no class '3': its classes are .*, 0, 01, 1, 10, 1e3"):
        make_protocol("folder", known=[0, 3], data_dir=tmp_path)


def test_a_class_that_comes_later_changes_nothing(numbers: Path) -> None:
    protocol = make_protocol("folder", known=["2", ["0", "1"]], data_dir=numbers)
    before = load_data(protocol, numbers)
    first = before.fingerprint(), before.test_fingerprint()
    for name in ("00", "05", "zebra", "unknown"):
        paint(numbers / name, 5, 9)
    after = load_data(protocol, numbers)
    assert (after.fingerprint(), after.test_fingerprint()) == first
    known, unknown = after.names()
    assert known == {0: "2", 1: "0", 2: "1"} and unknown == {3: "10", 4: "11"}


def test_a_class_that_goes_is_named(numbers: Path) -> None:
    protocol = make_protocol("folder", known=["0", "1"], data_dir=numbers)
    shutil.rmtree(numbers / "10")
    data = load_data(protocol, numbers)
    with pytest.raises(UserError, match=f"{numbers} has no folder for class 10"):
        data.test()
    shutil.rmtree(numbers / "1")
    with pytest.raises(UserError, match=f"{numbers} has no folder for class 1:"):
        load_data(protocol, numbers)


def test_renaming_classes_changes_the_fingerprint(numbers: Path) -> None:
    one = load_data(make_protocol("folder", known=["0", "1"], data_dir=numbers), numbers).fingerprint()
    (numbers / "0").rename(numbers / "zero")
    assert load_data(make_protocol("folder", known=["zero", "1"], data_dir=numbers), numbers).fingerprint() != one


def test_class_folders_are_divided_but_unknown_ones_are_whole(numbers: Path, caplog: pytest.LogCaptureFixture) -> None:
    paint(numbers / "unknown" / "inside", 4, 20)
    paint(numbers / "unknown", 3, 21)
    with caplog.at_level(logging.WARNING):
        protocol = make_protocol("folder", data_dir=numbers, unknown=["11"])
    assert protocol.class_names == ("0", "1", "10", "2") and protocol.unknown == ("11",)
    assert "known 0, 1, 10, 2; image_size 32; grey false" in caplog.text
    assert "neither known nor unknown, so not used: unknown" in caplog.text
    protocol = make_protocol("folder", data_dir=numbers, unknown=["11", "unknown"])
    data = load_data(protocol, numbers)
    test = data.test()
    assert int((test.labels == 4).sum()) == 12 + 7
    known = test.select(test.labels < 4)
    assert torch.bincount(known.labels, minlength=4).min() >= 1
    assert len(data.train) + len(data.validation) + len(known) == 4 * 12
    assert not pixels(known.images) & pixels(torch.cat([data.train.images, data.validation.images]))


def test_folders_of_parts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for level, name in enumerate(("ant", "bee", "cat")):
        paint(tmp_path / "train" / name, 4, level)
    for level, name in enumerate(("ant", "bee", "dog", "unknown")):
        paint(tmp_path / "test" / name, 2, 10 + level)
    paint(tmp_path / "unknown", 3, 20)
    paint(tmp_path / "val" / "ant", 3, 21)
    with caplog.at_level(logging.WARNING):
        protocol = make_protocol("folder", data_dir=tmp_path)
    assert protocol.class_names == ("ant", "bee", "cat") and protocol.unknown == ("dog", "unknown")
    assert "not used: val" in caplog.text
    test = load_data(protocol, tmp_path).test()
    assert torch.bincount(test.labels).tolist() == [2, 2, 0, 2 + 2 + 3]  # cat is trained and not tested
    assert "no test images, so each counts as 0 in macro-F1 and nowhere else: cat" in caplog.text
    with pytest.raises(UserError, match="class dog cannot be known, it has no training images"):
        make_protocol("folder", known=["ant", "dog"], data_dir=tmp_path)


@pytest.mark.parametrize(
    ("side", "grey", "shape"),
    [(32, False, (3, 32, 32)), (33, False, (3, 64, 64)), (20, True, (1, 32, 32)), (300, True, (1, 64, 64))],
)
def test_size_and_colour_are_told_by_the_known_images(
    tmp_path: Path, side: int, grey: bool, shape: tuple[int, int, int], caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b"):
        paint(tmp_path / name, 4, side=16, grey=True)
    paint(tmp_path / "b", 5, side=side, grey=grey)
    paint(tmp_path / "c", 2, side=80)  # unknown: it does not count
    with caplog.at_level(logging.WARNING):
        protocol = make_protocol("folder", known=["a", "b"], data_dir=tmp_path)
    assert protocol.image_shape == shape and len(protocol.mean) == len(protocol.std) == shape[0]
    assert f"image_size {shape[1]}; grey {str(grey).lower()}" in caplog.text
    asked = make_protocol("folder", known=["a", "b"], data_dir=tmp_path, image_size=48, grey=False)
    assert asked.image_shape == (3, 48, 48)
    assert load_data(asked, tmp_path).train.images.shape[1:] == (3, 48, 48)


def test_any_folder_can_be_the_unknown(numbers: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    protocol = make_protocol("folder", known=["0", "1"], data_dir=numbers)
    flat, classes = tmp_path_factory.mktemp("flat"), tmp_path_factory.mktemp("classes")
    paint(flat, 5, 30)
    for name in ("0", "x", "y"):
        paint(classes / name, 4, 31)
    for folder, names, count in ((flat, (flat.name,), 5), (classes, ("x", "y"), 8)):
        other = with_unknown(protocol, str(folder))
        assert other.unknown == names
        data = load_data(other, numbers, unknown_source=open_source("folder", folder))
        assert int((data.test().labels == 2).sum()) == count
        assert data.fingerprint() == load_data(protocol, numbers).fingerprint()
    paint(numbers / "empty", 0)
    with pytest.raises(UserError, match="has no class folders"):
        with_unknown(protocol, str(numbers / "empty"))


def test_mistakes(numbers: Path) -> None:
    for change, message in (
        ({"known": ["0", "1"], "unknown": ["1", "2"]}, "class 1 is both known and unknown"),
        ({"known": ["0", "1"], "unknown": ["2", "2"]}, "unknown classes of folder: 2 is given twice"),
        ({"unknown": ["0", "1", "2", "10"]}, "has 1 class folders with training images that are not unknown"),
        ({"known": "0,1"}, "must be a list"),
        ({"known": ["0", "1"], "seed": 3}, "known classes or a seed"),
    ):
        with pytest.raises(UserError, match=message):
            make_protocol("folder", data_dir=numbers, **change)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="unknown goes with known classes or a seed"):
        make_protocol("cifar10", unknown=["cat"])
    with pytest.raises(UserError, match="grey is for the protocol folder"):
        make_protocol("cifar10", grey=True)
    (numbers / "train").mkdir()
    paint(numbers / "train" / "a", 2)
    with pytest.raises(UserError, match="test is missing: put test images there"):
        make_protocol("folder", data_dir=numbers)
