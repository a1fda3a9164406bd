"""Open-set data: validation, labels, and what is opened when."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nas_osr.data.dataset import load_data
from nas_osr.data.protocols import make_protocol, with_unknown
from nas_osr.data.sources import open_source
from nas_osr.errors import UserError

RNG = np.random.default_rng(1)


def write_images(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for index in range(count):
        Image.fromarray(RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{index:02}.png")


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small CIFAR-10 and CIFAR-100 image folders; nothing but sound images."""
    root = tmp_path_factory.mktemp("cifar")
    for name in open_source("cifar10").class_names:
        write_images(root / "cifar10" / "train" / name, 20)
        write_images(root / "cifar10" / "test" / name, 3)
    for name in open_source("cifar100").class_names:
        write_images(root / "cifar100" / "test" / name, 1)
    return root


def pixels(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def test_parts_and_labels(cifar: Path) -> None:
    protocol = make_protocol("cifar10", 0)
    data = load_data(protocol, cifar)
    assert (len(data.train), len(data.validation)) == (6 * 18, 6 * 2)
    assert not pixels(data.train.images) & pixels(data.validation.images)
    for part in (data.train, data.validation):
        assert part.images.dtype == torch.uint8 and part.labels.dtype == torch.int64
        names = open_source("cifar10").class_names
        assert [protocol.label_map[names[class_id]] for class_id in part.source_labels] == part.labels.tolist()
    test = data.test()
    assert test is data.test()
    assert torch.bincount(test.labels).tolist() == [3] * 6 + [12]
    assert set(test.source_labels[test.labels == 6].tolist()) == set(open_source("cifar10").ids(protocol.unknown))
    assert not pixels(test.images) & pixels(data.train.images)


def test_cifar_plus_takes_unknowns_from_cifar100_test_only(cifar: Path) -> None:
    protocol = make_protocol("cifar+10", 2)
    test = load_data(protocol, cifar).test()
    assert torch.bincount(test.labels).tolist() == [3] * 4 + [10]
    unknown, known = open_source("cifar100").ids(protocol.unknown), open_source("cifar10").ids(protocol.label_map)
    assert sorted(test.source_labels[test.labels == 4].tolist()) == sorted(unknown)
    assert set(test.source_labels[test.labels < 4].tolist()) == set(known)


def test_another_unknown_source(cifar: Path) -> None:
    data = load_data(with_unknown(make_protocol("cifar10"), "digits"), cifar)
    test = data.test()
    assert test.images.shape[1:] == (3, 32, 32) and int((test.labels == 6).sum()) == 359


def test_closed_protocol(cifar: Path) -> None:
    test = load_data(make_protocol("cifar10-closed"), cifar).test()
    assert torch.bincount(test.labels).tolist() == [3] * 10


def test_merged_classes(cifar: Path) -> None:
    data = load_data(make_protocol("cifar10", known=[[3, 5], [1, 9]]), cifar)
    assert torch.bincount(data.train.labels).tolist() == [36, 36]
    assert torch.bincount(data.validation.source_labels)[[1, 3, 5, 9]].tolist() == [2] * 4


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32), st.permutations([0, 3, 4, 8, 9]), st.sampled_from([0.1, 0.25, 0.5]))
def test_validation_depends_on_seed_and_class_alone(seed: int, order: list[int], share: float) -> None:
    one = load_data(make_protocol("digits", known=order), seed=seed, validation_share=share)
    two = load_data(make_protocol("digits", known=[3, [0, 4]]), seed=seed, validation_share=share)
    for class_id in (0, 3, 4):
        first, second = (part.images[part.source_labels == class_id] for part in (one.validation, two.validation))
        assert torch.equal(first, second)
        total = len(first) + int((one.train.source_labels == class_id).sum())
        assert len(first) == round(share * total)
    assert one.fingerprint() == load_data(make_protocol("digits", known=order), None, seed, share).fingerprint()


def test_seeds_change_the_validation_and_the_fingerprint() -> None:
    protocol = make_protocol("digits")
    assert load_data(protocol, seed=0).fingerprint() != load_data(protocol, seed=1).fingerprint()
    assert load_data(protocol).fingerprint() != load_data(make_protocol("digits", 1)).fingerprint()


def test_limit_per_class(cifar: Path) -> None:
    data = load_data(make_protocol("cifar10"), cifar, limit_per_class=4)
    assert (len(data.train), len(data.validation), len(data.test())) == (18, 6, 30)


@pytest.mark.parametrize("name", ["cifar10", "cifar+10"])
def test_unknown_and_test_images_are_not_opened_before_the_test(tmp_path: Path, cifar: Path, name: str) -> None:
    protocol = make_protocol(name)
    names = open_source("cifar10").class_names
    for class_name in names:
        folder = tmp_path / "cifar10" / "train" / class_name
        folder.mkdir(parents=True)
        known = class_name in protocol.label_map
        for path in sorted((cifar / "cifar10" / "train" / class_name).iterdir()):
            (folder / path.name).write_bytes(path.read_bytes() if known else b"never to be read")
        test = tmp_path / "cifar10" / "test" / class_name
        test.mkdir(parents=True)
        (test / "trap.png").write_bytes(b"not before the test")
    data = load_data(protocol, tmp_path)
    assert torch.equal(data.train.images, load_data(protocol, cifar).train.images)
    with pytest.raises(UserError, match=r"trap\.png \(damaged\)"):
        data.test()


def test_own_folder(tmp_path: Path) -> None:
    for name in ("apple", "bolt", "cup"):
        write_images(tmp_path / "train" / name, 5)
        write_images(tmp_path / "test" / name, 2)
    write_images(tmp_path / "test" / "zebra", 4)  # an unknown needs no training images
    (tmp_path / "train" / "bolt" / "00.png").write_bytes(b"never to be read")
    odd = tmp_path / "train" / "cup"
    Image.new("L", (70, 40), 9).save(odd / "grey.png")
    Image.new("P", (20, 90)).save(odd / "palette.png")
    Image.new("RGBA", (64, 64), (1, 2, 3, 255)).save(odd / "alpha.webp", lossless=True)
    protocol = make_protocol("folder", known=["cup", "apple"], data_dir=tmp_path, image_size=48)
    assert protocol.class_names == ("cup", "apple") and protocol.unknown == ("bolt", "zebra")
    data = load_data(protocol, tmp_path)
    assert data.train.images.shape == (11, 3, 48, 48)
    assert len(data.validation) == 2
    assert torch.bincount(data.test().labels).tolist() == [2, 2, 6]
    solid = [image for image in data.train.images if int(image.float().std(dim=(1, 2)).max()) == 0]
    assert [1, 2, 3] in [image[:, 0, 0].tolist() for image in solid]
    seeded = make_protocol("folder", seed=3, data_dir=tmp_path)
    assert seeded.num_known == 2 and "zebra" in seeded.unknown
    assert seeded == make_protocol("folder", seed=3, data_dir=tmp_path)


def test_own_folder_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no class folders"):
        make_protocol("folder", known=["a", "b"], data_dir=tmp_path)
    for name in ("a", "b"):
        write_images(tmp_path / "train" / name, 2)
    with pytest.raises(UserError, match="test is missing: put test images there"):
        make_protocol("folder", known=["a", "b"], data_dir=tmp_path)
    write_images(tmp_path / "test" / "c", 1)
    with pytest.raises(UserError, match="class c cannot be known"):
        make_protocol("folder", known=["a", "c"], data_dir=tmp_path)
    with pytest.raises(UserError, match="has no class 'd'"):
        make_protocol("folder", known=["a", "d"], data_dir=tmp_path)
    with pytest.raises(UserError, match="multiple of 16"):
        make_protocol("folder", known=["a", "b"], data_dir=tmp_path, image_size=30)
    protocol = make_protocol("folder", known=["a", "b"], data_dir=tmp_path)
    data = load_data(protocol, tmp_path)
    assert data.test().labels.tolist() == [2]
    Image.new("F", (32, 32)).save(tmp_path / "train" / "a" / "deep.tif")
    with pytest.raises(UserError, match=r"deep\.tif has mode F, where nothing says what is white"):
        load_data(protocol, tmp_path)


def test_photographs_are_turned_upright_and_keep_their_proportions(tmp_path: Path) -> None:
    from nas_osr.data.sources.image_files import read_images

    image = Image.new("RGB", (64, 32), (0, 0, 0))
    image.paste((255, 0, 0), (0, 0, 64, 16))  # red above black as stored ...
    exif = image.getexif()
    exif[0x0112] = 3  # ... and the camera was upside down
    image.save(tmp_path / "photo.png", exif=exif)
    pixels = read_images([tmp_path / "photo.png"], (3, 32, 32), convert=True)[0]
    assert pixels[0, :15].max() == 0 and pixels[0, 17:].min() == 255


@pytest.mark.parametrize(
    "arguments", [{"validation_share": 0.0}, {"validation_share": 1.0}, {"limit_per_class": 1}, {"limit_per_class": 0}]
)
def test_strange_arguments(arguments: dict) -> None:
    with pytest.raises(UserError, match="must"):
        load_data(make_protocol("digits"), **arguments)


def test_one_training_image_is_too_few(tmp_path: Path) -> None:
    write_images(tmp_path / "train" / "a", 1)
    write_images(tmp_path / "train" / "b", 2)
    (tmp_path / "test").mkdir()
    with pytest.raises(UserError, match="at least 2 are needed"):
        load_data(make_protocol("folder", known=["a", "b"], data_dir=tmp_path), tmp_path)


def test_select_and_to() -> None:
    train = load_data(make_protocol("digits")).train
    mask = train.labels == 2
    chosen = train.select(mask)
    assert len(chosen) == int(mask.sum()) and set(chosen.source_labels.tolist()) == {5}
    assert torch.equal(train.select(torch.tensor([5, 1])).images, train.images[[5, 1]])
    assert train.to("cpu").images.device.type == "cpu"
    assert len(replace(train, labels=train.labels[:3])) == 3
