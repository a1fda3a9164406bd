"""Other people's layouts of the official sets, and data folders that point at the set itself."""

from __future__ import annotations

import gzip
import pickle
import re
import shutil
import struct
import tarfile
from collections.abc import Callable
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas_osr.cli.data import check, prepare
from nas_osr.data.sources import open_source
from nas_osr.data.sources.cifar import CIFAR10
from nas_osr.data.sources.mnist import MNIST
from nas_osr.data.sources.places import Archive
from nas_osr.errors import UserError

STEMS = {"train": "train", "test": "t10k"}


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(
    folder: Path, name: str = "{stem}-{kind}-ubyte", pack: Callable[[bytes], bytes] = bytes, dot: str = "-"
) -> None:
    """Twenty images of each part; image i has the level of its label, 5 more in train and 4 more in test."""
    labels = np.arange(20, dtype=np.uint8) % 10
    for part, stem in STEMS.items():
        images = np.full((20, 28, 28), len(part), np.uint8) + labels[:, None, None]
        for kind, array in ((f"images{dot}idx3", images), (f"labels{dot}idx1", labels)):
            path = folder / name.format(stem=stem, kind=kind)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(pack(idx(array)))


def check_mnist(data_dir: Path, source: str = "mnist") -> None:
    for part in STEMS:
        images, ids = open_source(source, data_dir).load(part, [3, 7], (1, 32, 32))
        assert ids.tolist() == [3, 7, 3, 7]
        assert images[:, 0, 16, 16].tolist() == [len(part) + label for label in (3, 7, 3, 7)]


@pytest.mark.parametrize("folder", ["MNIST/raw", "MNIST", "mnist", "mnist/raw", "mnist/MNIST/raw"])
@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("{stem}-{kind}-ubyte", bytes),
        ("{stem}-{kind}-ubyte.gz", gzip.compress),
        ("{stem}-{kind}-ubyte/{stem}-{kind}-ubyte", bytes),
    ],
)
@pytest.mark.parametrize("dot", ["-", "."])
def test_files_of_mnist(tmp_path: Path, folder: str, name: str, pack: Callable[[bytes], bytes], dot: str) -> None:
    write_mnist(tmp_path / folder, name, pack, dot)
    check_mnist(tmp_path)
    check_mnist(tmp_path / folder)  # the set itself
    with pytest.raises(UserError, match=r"fashion-mnist .train. is not in"):  # its files have the same names
        check_mnist(tmp_path, "fashion-mnist")


def test_fashion_mnist_is_told_by_its_folder(tmp_path: Path) -> None:
    write_mnist(tmp_path / "fashion-mnist")
    check_mnist(tmp_path, "fashion-mnist")
    with pytest.raises(UserError, match=r"mnist .train. is not in"):
        check_mnist(tmp_path)


def test_class_folders_of_a_like_name_are_no_idx_files(tmp_path: Path) -> None:
    (tmp_path / "mnist" / "test" / "3").mkdir(parents=True)
    Image.new("L", (28, 28), 9).save(tmp_path / "mnist" / "test" / "3" / "x.png")
    for data_dir in (tmp_path, tmp_path / "mnist"):
        assert open_source("mnist", data_dir).load("test", [3], (1, 32, 32))[1].tolist() == [3]


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small files that count as official, in tmp_path / "made", and their archive in tmp_path / "packed"."""
    folder = tmp_path / "made" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    content = pickle.dumps({"data": np.zeros((10, 3072), np.uint8), "labels": list(range(10))})
    for name in (name for names in CIFAR10.checksums.values() for name in names):
        (folder / name).write_bytes(content)
    (tmp_path / "packed").mkdir()
    archive = tmp_path / "packed" / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder, folder.name)
    sums = {part: dict.fromkeys(names, md5(content).hexdigest()) for part, names in CIFAR10.checksums.items()}
    digest = md5(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR10, "archives", (Archive(CIFAR10.archives[0].urls, digest),))
    monkeypatch.setattr(CIFAR10, "checksums", sums)
    monkeypatch.setattr(CIFAR10, "counts", {"train": 50, "test": 10})
    return folder


def load_cifar(data_dir: Path) -> int:
    return len(open_source("cifar10", data_dir).load("train", [3], (3, 32, 32))[1])


def test_the_folder_of_the_set_itself(cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_cifar(cifar) == load_cifar(cifar.parent) == 5
    monkeypatch.chdir(cifar)
    assert load_cifar(Path(".")) == 5
    shutil.move(cifar, tmp_path / "data" / "cifar-10-python" / cifar.name)  # as some programs unpack it
    assert load_cifar(tmp_path / "data") == 5


@pytest.mark.parametrize("named", ["packed", "packed/cifar-10-python.tar.gz"])
def test_an_archive_beside_is_unpacked_when_asked(
    cifar: Path, tmp_path: Path, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"tar\.gz is packed: `nas-osr data prepare cifar10 --data_dir .*` unpack"):
        load_cifar(tmp_path / named)
    check(tmp_path / "packed")
    assert re.search(r"missing: `nas-osr data prepare cifar10` unpacks .*tar\.gz", capsys.readouterr().out)
    prepare("cifar10", tmp_path / named)
    assert "cifar10 train: 10 classes of 5 images" in capsys.readouterr().out
    assert load_cifar(tmp_path / named) == 5 and (tmp_path / "packed" / "cifar-10-python.tar.gz").is_file()


def test_an_archive_that_is_not_whole_is_left_alone(
    cifar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "packed" / "cifar-10-python.tar.gz"
    archive.write_bytes(archive.read_bytes()[:-1])
    with pytest.raises(UserError, match="run again with --download"):
        prepare("cifar10", tmp_path / "packed")
    assert "tar.gz: not the official archive or not all of it" in capsys.readouterr().out
    assert [path.name for path in archive.parent.iterdir()] == [archive.name]


@pytest.mark.parametrize("damage", ["missing", "cut"])
@pytest.mark.parametrize("named", [".", "cifar-10-batches-py"])
def test_half_unpacked_files_are_mended_from_the_archive(cifar: Path, tmp_path: Path, damage: str, named: str) -> None:
    packed = tmp_path / "packed"
    shutil.copytree(cifar, packed / cifar.name)
    broken = packed / cifar.name / "data_batch_3"
    broken.unlink() if damage == "missing" else broken.write_bytes(b"x")
    (broken.parent / "mine.txt").touch()
    with pytest.raises(UserError, match=r"data_batch_3 is .*--download"):
        load_cifar(packed / named)
    if named != ".":
        shutil.move(packed / "cifar-10-python.tar.gz", packed / named)
    prepare("cifar10", packed / named)
    assert load_cifar(packed) == 5 and (broken.parent / "mine.txt").is_file()
    assert not (broken.parent / cifar.name).exists()


def test_a_file_of_anything_else_is_refused(cifar: Path, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(UserError, match=r"photo\.jpg is a file: give the folder that it lies in"):
        load_cifar(tmp_path / "photo.jpg")
    with pytest.raises(UserError, match=r"tar\.gz is a file"):
        open_source("cifar100", tmp_path / "packed" / "cifar-10-python.tar.gz").find("test")


def test_archives_of_mnist_are_told_apart_by_their_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of MNIST and of Fashion-MNIST have the same names."""
    write_mnist(tmp_path, "{stem}-{kind}-ubyte.gz", lambda content: gzip.compress(content, mtime=0))
    sums = {path.name: md5(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()}
    monkeypatch.setattr(MNIST, "archives", tuple(Archive(item.urls, sums[item.name]) for item in MNIST.archives))
    monkeypatch.setattr(MNIST, "counts", {"train": 20, "test": 20})
    with pytest.raises(UserError, match=r"fashion-mnist is not in .* run again with --download"):
        prepare("fashion-mnist", tmp_path)
    prepare("mnist", tmp_path)
    assert len(list((tmp_path / "MNIST" / "raw").iterdir())) == 4
    check_mnist(tmp_path)


@pytest.mark.parametrize("layout", ["official", "class", "class/images", "class without table", "half moved"])
def test_validation_images_of_tiny_imagenet(tmp_path: Path, layout: str) -> None:
    wnids = open_source("tinyimagenet").class_names
    val = tmp_path / "tiny-imagenet-200" / "val"
    val.mkdir(parents=True)
    lines = []
    for number in (2, 0, 1, 10):
        wnid, name = wnids[5 + number % 2], f"val_{number}.JPEG"
        moved = {"official": "images", "class/images": f"{wnid}/images"}
        moved["half moved"] = ("images", f"{wnid}/images")[number % 2]
        folder = val / moved.get(layout, wnid)
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (number * 20, 0, 0)).save(folder / name)
        lines.append(f"{name}\t{wnid}\t0\t0\t62\t62\n")
    if layout != "class without table":
        (val / "val_annotations.txt").write_text("".join(lines))
    source = open_source("tinyimagenet", tmp_path)
    images, ids = source.load("test", [5, 6], (3, 64, 64))
    assert ids.tolist() == [5, 5, 5, 6] and not source.passed_over
    assert [round(float(image[0].float().mean())) for image in images] == pytest.approx([0, 200, 40, 20], abs=2)
    assert len(open_source("tinyimagenet", val.parent).load("test", [6], (3, 64, 64))[1]) == 1  # the set itself


def test_training_images_of_tiny_imagenet_without_their_inner_folder(tmp_path: Path) -> None:
    source = open_source("tinyimagenet", tmp_path)
    folder = tmp_path / "tiny-imagenet-200" / "train" / source.class_names[5]
    folder.mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(folder / "x.JPEG")
    (folder / "boxes.txt").touch()
    assert source.load("train", [5], (3, 64, 64))[1].tolist() == [5]
    assert str(source.passed_over) == "files: 1 of no image's suffix"
