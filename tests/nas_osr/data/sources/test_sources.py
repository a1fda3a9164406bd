"""Every official format and the image-folder layout, on generated files."""

from __future__ import annotations

import gzip
import hashlib
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from nas_osr.data.sources import official_files, open_source
from nas_osr.data.sources.base import Shape, Source
from nas_osr.data.sources.cifar import CIFAR10, CIFAR100
from nas_osr.data.sources.mnist import read_idx
from nas_osr.data.sources.places import resolve_data_dir
from nas_osr.data.sources.svhn import SVHN
from nas_osr.errors import UserError

RNG = np.random.default_rng(0)
COLOUR = (3, 32, 32)
GREY = (1, 32, 32)


def load_source(
    name: str, part: str, classes: Any, data_dir: Path | None, image_shape: Shape, limit_per_class: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    return open_source(name, data_dir).load(part, classes, image_shape, limit_per_class)


def random_images(count: int, *shape: int) -> np.ndarray:
    return RNG.integers(0, 256, (count, *shape), dtype=np.uint8)


def declare_official(monkeypatch: pytest.MonkeyPatch, source: type[Source], part: str, *files: Path) -> None:
    """Let these files be the official ones."""
    checksums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in files}
    monkeypatch.setattr(source, "checksums", {part: checksums})


def write_cifar(folder: Path, files: list[str], key: str, classes: int) -> tuple[np.ndarray, np.ndarray]:
    folder.mkdir(parents=True)
    images, labels = [], []
    for name in files:
        data = random_images(20, 3072)
        targets = RNG.integers(0, classes, 20).tolist()
        (folder / name).write_bytes(pickle.dumps({"data": data, key: targets, "filenames": ["x"] * 20}, protocol=2))
        images.append(data)
        labels += targets
    return np.concatenate(images).reshape(-1, 3, 32, 32), np.array(labels)


def write_idx(path: Path, array: np.ndarray, zipped: bool) -> None:
    content = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    if zipped:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(content))
    else:
        path.write_bytes(content)


def write_class_folders(
    folder: Path, names: list[str], count: int, shape: tuple[int, int, int]
) -> dict[str, np.ndarray]:
    written = {}
    for name in names:
        (folder / name).mkdir(parents=True)
        pixels = random_images(count, *shape[1:], shape[0])
        for index, image in enumerate(pixels):
            suffix = (".png", ".PNG", ".webp")[index % 3 if shape[0] == 3 else 0]
            Image.fromarray(image.squeeze()).save(folder / name / f"{index:04}{suffix}", lossless=True)
        (folder / name / ".complete").touch()
        (folder / name / "notes.txt").write_text("not an image")
        written[name] = pixels.transpose(0, 3, 1, 2)
    return written


@pytest.mark.parametrize("inside", [".", "cifar10"])
def test_cifar10_pickles(tmp_path: Path, inside: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [f"data_batch_{number}" for number in range(1, 6)]
    folder = tmp_path / inside / "cifar-10-batches-py"
    images, labels = write_cifar(folder, files, "labels", 10)
    test = {"test": CIFAR10.checksums["test"]}
    declare_official(monkeypatch, CIFAR10, "train", *(folder / name for name in files))
    monkeypatch.setattr(CIFAR10, "checksums", {**CIFAR10.checksums, **test})
    loaded, ids = load_source("cifar10", "train", [7, 3], tmp_path, COLOUR)
    kept = np.isin(labels, [3, 7])
    assert loaded.dtype == torch.uint8 and ids.dtype == torch.int64
    assert np.array_equal(loaded.numpy(), images[kept]) and np.array_equal(ids.numpy(), labels[kept])
    limited, limited_ids = load_source("cifar10", "train", [3, 7], tmp_path, COLOUR, limit_per_class=2)
    assert np.bincount(limited_ids)[[3, 7]].tolist() == [2, 2]
    assert np.array_equal(limited[limited_ids == 3].numpy(), images[labels == 3][:2])
    with pytest.raises(UserError, match="test_batch is missing"):
        load_source("cifar10", "test", [3], tmp_path, COLOUR)


def test_cifar100_takes_the_fine_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    data, fine = random_images(200, 3072), list(range(100)) * 2
    content = {"data": data, "fine_labels": fine, "coarse_labels": [0] * 200}
    (folder / "test").write_bytes(pickle.dumps(content, protocol=4))
    declare_official(monkeypatch, CIFAR100, "test", folder / "test")
    images, ids = load_source("cifar100", "test", range(100), tmp_path, COLOUR)
    assert np.array_equal(images.numpy().reshape(200, -1), data) and ids.tolist() == fine


def python2_pickle(data: np.ndarray, labels: list[int]) -> bytes:
    """The bytes of the official files: protocol 2 as Python 2 and numpy 1 wrote it, with 8-bit strings."""

    def text(value: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(value)) + value

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + number(0) + b"\x85" + text(b"b") + b"\x87R"
    dtype = b"cnumpy\ndtype\n" + text(b"u1") + number(0) + number(1) + b"\x87R"
    dtype += b"(" + number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    state = b"(" + number(1) + number(data.shape[0]) + number(data.shape[1]) + b"\x86" + dtype + b"\x89"
    state += text(data.tobytes()) + b"t"
    entries = text(b"data") + array + state + b"b"
    entries += text(b"labels") + b"](" + b"".join(map(number, labels)) + b"e"
    entries += text(b"batch_label") + text(b"testing batch 1 of 1")
    return b"\x80\x02}(" + entries + b"u."


@pytest.mark.filterwarnings("error")
def test_files_written_by_python2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = random_images(3, 3072)
    path = tmp_path / "cifar-10-batches-py" / "test_batch"
    path.parent.mkdir()
    path.write_bytes(python2_pickle(data, [1, 2, 9]))
    declare_official(monkeypatch, CIFAR10, "test", path)
    images, ids = load_source("cifar10", "test", [9, 1], tmp_path, COLOUR)
    assert ids.tolist() == [1, 9] and np.array_equal(images.numpy().reshape(2, -1), data[[0, 2]])


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("damage", ["none", "cut", "flipped", "empty", "malicious"])
def test_no_pickle_but_the_official_one_is_opened(tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, marker = tmp_path / "cifar-10-batches-py", tmp_path / "it-ran"
    write_cifar(folder, ["test_batch"], "labels", 10)
    path = folder / "test_batch"
    sound = path.read_bytes()
    if damage != "none":  # the file that is official here; a sound one by somebody else is refused as well
        declare_official(monkeypatch, CIFAR10, "test", path)
    live = pickle.dumps({"data": Malicious(marker), "labels": []})
    damaged = {"none": sound, "cut": sound[:-1], "flipped": sound[:300] + b"!" + sound[301:], "empty": b""}
    path.write_bytes({**damaged, "malicious": live}[damage])
    with pytest.raises(UserError, match="test_batch is not the official file.*prepare cifar10 --download") as said:
        load_source("cifar10", "test", [1], tmp_path, COLOUR)
    assert "\n" not in str(said.value) and not marker.exists()
    if damage == "malicious":
        pickle.loads(live)
        assert marker.exists()  # the sample was a live one


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(("source", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_idx_files(tmp_path: Path, zipped: bool, source: str, folder: str) -> None:
    from torchvision.datasets.mnist import read_image_file

    images, labels = random_images(30, 28, 28), RNG.integers(0, 10, 30).astype(np.uint8)
    labels[:10] = np.arange(10)
    path = tmp_path / folder / "raw" / "t10k-images-idx3-ubyte"
    write_idx(path, images, zipped)
    write_idx(path.with_name("t10k-labels-idx1-ubyte"), labels, zipped)
    loaded, ids = load_source(source, "test", range(10), tmp_path, GREY)
    assert loaded.shape == (30, 1, 32, 32)
    assert np.array_equal(loaded[:, 0, 2:30, 2:30].numpy(), images)
    assert loaded.sum() == images.sum()  # the border is zero
    assert np.array_equal(ids.numpy(), labels)
    if not zipped:
        assert np.array_equal(read_image_file(str(path)).numpy(), images)  # torchvision reads the same file alike


def test_damaged_idx_files(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    write_idx(raw / "t10k-labels-idx1-ubyte", np.zeros(3, np.uint8), zipped=False)
    path = raw / "t10k-images-idx3-ubyte"
    write_idx(path, random_images(3, 28, 28), zipped=False)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="t10k-images-idx3-ubyte is incomplete"):
        load_source("mnist", "test", [0], tmp_path, GREY)
    path.write_bytes(b"\x00\x00\x0d\x03")
    with pytest.raises(UserError, match="is not an idx file"):
        load_source("mnist", "test", [0], tmp_path, GREY)
    path.unlink()
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(b"x" * 500)[:-9])
    with pytest.raises(UserError, match=r"ubyte\.gz cannot be read"):
        load_source("mnist", "test", [0], tmp_path, GREY)
    write_idx(path, random_images(3, 32, 32), zipped=False)
    with pytest.raises(UserError, match="not 28x28"):
        load_source("mnist", "test", [0], tmp_path, GREY)


@pytest.mark.parametrize("inside", [".", "svhn"])
@pytest.mark.parametrize("compressed", [False, True])
def test_svhn_mat_files(tmp_path: Path, inside: str, compressed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = random_images(20, 32, 32, 3), np.arange(20) % 10 + 1  # 10 stands for the digit 0
    path = tmp_path / inside / "train_32x32.mat"
    path.parent.mkdir(exist_ok=True)
    savemat(path, {"X": images.transpose(1, 2, 3, 0), "y": labels[:, None]}, do_compression=compressed)
    declare_official(monkeypatch, SVHN, "train", path)
    loaded, ids = load_source("svhn", "train", [0, 1], tmp_path, COLOUR)
    assert ids.tolist() == [1, 0, 1, 0]
    assert np.array_equal(loaded.numpy(), images[[0, 9, 10, 19]].transpose(0, 3, 1, 2))


@pytest.mark.parametrize("damage", ["none", "cut", "flipped", "empty"])
def test_no_mat_file_but_the_official_one_is_opened(
    tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "train_32x32.mat"
    savemat(path, {"X": random_images(32, 32, 3, 2), "y": [[1], [2]]})
    sound = path.read_bytes()
    if damage != "none":  # the file that is official here; a sound one by somebody else is refused as well
        declare_official(monkeypatch, SVHN, "train", path)
    damaged = {"none": sound, "cut": sound[:-1], "flipped": sound[:300] + b"!" + sound[301:], "empty": b""}
    path.write_bytes(damaged[damage])
    monkeypatch.setattr("scipy.io.loadmat", None)  # it is never asked
    with pytest.raises(UserError, match="32x32.mat is not the official file.*prepare svhn --download") as said:
        load_source("svhn", "train", [0], tmp_path, COLOUR)
    assert "\n" not in str(said.value)


def test_tiny_imagenet_tree(tmp_path: Path) -> None:
    wnids = open_source("tinyimagenet").class_names
    root = tmp_path / "tiny-imagenet-200"
    grey = Image.fromarray(np.full((64, 64), 77, np.uint8))
    for class_id in (1, 4):
        folder = root / "train" / wnids[class_id] / "images"
        folder.mkdir(parents=True)
        (folder.parent / f"{wnids[class_id]}_boxes.txt").write_text("x")
        for index in range(3):
            Image.new("RGB", (64, 64), (class_id, index, 9)).save(folder / f"{wnids[class_id]}_{index}.JPEG")
        grey.save(folder / f"{wnids[class_id]}_3.JPEG")  # the official set has grey images
    (root / "val" / "images").mkdir(parents=True)
    lines = []
    for index, class_id in enumerate([4, 1, 9, 4]):
        lines.append(f"val_{index}.JPEG\t{wnids[class_id]}\t0\t0\t62\t62\n")
        if class_id != 9:
            Image.new("RGB", (64, 64), (index * 20, 0, 0)).save(root / "val" / "images" / f"val_{index}.JPEG")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    images, ids = load_source("tinyimagenet", "train", [4, 1], tmp_path, (3, 64, 64))
    assert ids.tolist() == [1] * 4 + [4] * 4 and images.shape == (8, 3, 64, 64)
    assert (images[[3, 7]].int() - 77).abs().max() <= 1
    images, ids = load_source("tinyimagenet", "test", [1, 4], tmp_path, (3, 64, 64))
    assert ids.tolist() == [1, 4, 4]
    assert [int(image[0].float().mean().round()) for image in images] == pytest.approx([20, 0, 60], abs=2)
    with pytest.raises(UserError, match="val_2.JPEG cannot be read"):
        load_source("tinyimagenet", "test", [9], tmp_path, (3, 64, 64))
    with pytest.raises(UserError, match=f"{wnids[0]}.* is missing"):
        load_source("tinyimagenet", "train", [0], tmp_path, (3, 64, 64))


def test_class_folders_by_official_name(tmp_path: Path) -> None:
    names = list(open_source("cifar10").class_names)
    written = write_class_folders(tmp_path / "cifar10" / "train", names, 3, COLOUR)
    images, ids = load_source("cifar10", "train", [9, 2], tmp_path, COLOUR)
    assert ids.tolist() == [2, 2, 2, 9, 9, 9]
    assert np.array_equal(images.numpy(), np.concatenate([written["bird"], written["truck"]]))
    assert load_source("cifar10", "train", [2], tmp_path, COLOUR, limit_per_class=1)[1].tolist() == [2]


def test_official_names_are_numbered_even_when_classes_are_absent(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "cifar10" / "test", ["cat", "truck"], 1, COLOUR)
    assert load_source("cifar10", "test", [3, 9], tmp_path, COLOUR)[1].tolist() == [3, 9]
    with pytest.raises(UserError, match="no folder for class airplane"):
        load_source("cifar10", "test", [0], tmp_path, COLOUR)


def test_class_folders_by_number_are_not_sorted_as_text(tmp_path: Path) -> None:
    written = write_class_folders(tmp_path / "cifar100" / "test", [str(number) for number in range(100)], 1, COLOUR)
    images, ids = load_source("cifar100", "test", [2, 10], tmp_path, COLOUR)
    assert ids.tolist() == [2, 10]
    assert np.array_equal(images.numpy(), np.concatenate([written["2"], written["10"]]))


def test_grey_class_folders_are_padded(tmp_path: Path) -> None:
    written = write_class_folders(tmp_path / "mnist" / "train", list("0123456789"), 2, (1, 28, 28))
    images, _ = load_source("mnist", "train", [5], tmp_path, GREY)
    assert np.array_equal(images[:, :, 2:30, 2:30].numpy(), written["5"])
    webp = tmp_path / "mnist" / "train" / "5" / "0001.webp"  # webp has no grey mode: equal channels are grey
    Image.fromarray(written["5"][0, 0]).convert("RGB").save(webp, lossless=True)
    (tmp_path / "mnist" / "train" / "5" / "0001.png").unlink()
    again, _ = load_source("mnist", "train", [5], tmp_path, GREY)
    assert torch.equal(again[0], again[1]) and torch.equal(again[0], images[0])


@pytest.mark.parametrize(
    ("mode", "size", "message"),
    [
        ("L", 32, "has mode L, not 8-bit colour"),
        ("I;16", 32, "has mode I;16, not 8-bit colour"),
        ("CMYK", 32, "has mode CMYK, not 8-bit colour"),
        ("RGB", 33, "is 33x33 pixels, not 32x32"),
    ],
)
def test_images_of_another_mode_or_size_are_refused_by_name(tmp_path: Path, mode: str, size: int, message: str) -> None:
    write_class_folders(tmp_path / "cifar10" / "train", ["cat", "dog"], 1, COLOUR)
    suffix = "jpg" if mode == "CMYK" else "png"
    Image.new(mode, (size, size)).save(tmp_path / "cifar10" / "train" / "dog" / f"odd.{suffix}")
    with pytest.raises(UserError, match=rf"dog/odd\.{suffix} {message}") as caught:
        load_source("cifar10", "train", [3, 5], tmp_path, COLOUR)
    assert "\n" not in str(caught.value)
    assert load_source("cifar10", "train", [3], tmp_path, COLOUR)[1].tolist() == [3]


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_damaged_images_are_refused_by_name(tmp_path: Path, suffix: str, damage: str) -> None:
    write_class_folders(tmp_path / "cifar10" / "train", ["cat"], 1, COLOUR)
    path = tmp_path / "cifar10" / "train" / "cat" / f"bad.{suffix}"
    Image.fromarray(random_images(1, 32, 32, 3)[0]).save(path)
    content = path.read_bytes()
    path.write_bytes({"cut": content[: len(content) // 2], "text": b"hello", "empty": b""}[damage])
    with pytest.raises(UserError, match=rf"bad\.{suffix} cannot be read as an image") as caught:
        load_source("cifar10", "train", [3], tmp_path, COLOUR)
    assert "\n" not in str(caught.value)


def test_palettes_and_opaque_channels_lose_nothing(tmp_path: Path) -> None:
    written = write_class_folders(tmp_path / "cifar10" / "train", ["cat"], 1, COLOUR)
    pixels = written["cat"][0].transpose(1, 2, 0) // 86 * 86
    folder = tmp_path / "cifar10" / "train" / "cat"
    image = Image.fromarray(pixels)
    image.save(folder / "0000.png")
    image.quantize(64, dither=Image.Dither.NONE).save(folder / "0001.png")
    image.quantize(64, dither=Image.Dither.NONE).save(folder / "0002.gif")
    image.convert("RGBA").save(folder / "0003.tif")
    image.save(folder / "0004.bmp")
    images, _ = load_source("cifar10", "train", [3], tmp_path, COLOUR)
    assert len(images) == 5 and (images == images[0]).all()


def test_a_class_without_images_is_named(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "cifar10" / "train", ["cat"], 1, COLOUR)
    (tmp_path / "cifar10" / "train" / "dog").mkdir()
    with pytest.raises(UserError, match="train has no folder for class dog, or an empty one"):
        load_source("cifar10", "train", [5], tmp_path, COLOUR)


def test_another_shape_is_converted(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "cifar10" / "test", ["cat"], 2, COLOUR)
    images, _ = load_source("cifar10", "test", [3], tmp_path, COLOUR)
    large, _ = load_source("cifar10", "test", [3], tmp_path, (3, 64, 64))
    assert large.shape == (2, 3, 64, 64)
    assert (large.float().mean((2, 3)) - images.float().mean((2, 3))).abs().max() < 1
    grey, _ = load_source("cifar10", "test", [3], tmp_path, GREY)
    oracle = np.asarray(Image.fromarray(images[0].permute(1, 2, 0).numpy()).convert("L"))
    assert np.abs(grey[0, 0].numpy().astype(int) - oracle.astype(int)).max() <= 1
    colour, _ = load_source("digits", "test", [0], None, COLOUR)
    assert torch.equal(colour[:, 0], colour[:, 2])


def test_digits_are_bundled_stratified_and_stable() -> None:
    from sklearn.datasets import load_digits

    train, _ = load_source("digits", "train", range(10), None, GREY)
    test, test_ids = load_source("digits", "test", range(10), None, GREY)
    assert len(train) + len(test) == 1797 and train.shape[1:] == GREY
    total = np.bincount(load_digits().target)
    assert np.array_equal(np.bincount(test_ids), np.round(0.2 * total).astype(int))
    pixels = {image.numpy().tobytes() for image in train}
    assert not pixels & {image.numpy().tobytes() for image in test}
    assert torch.equal(load_source("digits", "test", [3], None, GREY)[0], test[test_ids == 3])
    scaled = train.float() / 255
    assert float(scaled.mean()) == pytest.approx(open_source("digits").mean[0], abs=1e-3)
    assert float(scaled.std()) == pytest.approx(open_source("digits").std[0], abs=1e-3)


def test_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NAS_OSR_DATA", raising=False)
    with pytest.raises(UserError, match="give --data_dir, or set NAS_OSR_DATA"):
        resolve_data_dir(None)
    monkeypatch.setenv("NAS_OSR_DATA", str(tmp_path))
    assert resolve_data_dir(None) == tmp_path
    assert resolve_data_dir(tmp_path.parent) == tmp_path.parent
    with pytest.raises(UserError, match="does not exist"):
        resolve_data_dir(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"cifar10 \(train\) is not in .*expected cifar-10-batches-py or cifar10/train"):
        load_source("cifar10", "train", [0], None, COLOUR)
    with pytest.raises(UserError, match="unknown source"):
        load_source("cifar12", "train", [0], None, COLOUR)


@pytest.mark.skipif("NAS_OSR_DATA" not in os.environ, reason="NAS_OSR_DATA names no folder with real CIFAR-10 images")
def test_real_cifar10_statistics() -> None:
    images, ids = load_source("cifar10", "test", range(10), None, COLOUR)
    assert np.bincount(ids).tolist() == [1000] * 10
    assert (images.float() / 255).mean((0, 2, 3)).tolist() == pytest.approx(open_source("cifar10").mean, abs=0.005)


@pytest.mark.parametrize("rank", [0, 4, 70, 255])
def test_idx_files_of_many_dimensions_are_refused(tmp_path: Path, rank: int) -> None:
    (tmp_path / "x").write_bytes(bytes([0, 0, 8, rank]) + b"\0\0\0\1" * rank + b"x")
    with pytest.raises(UserError, match="x is not an idx file of bytes"):
        read_idx(tmp_path / "x")


def test_packed_files_are_not_unpacked_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gigabyte of zeros packs to a megabyte."""
    monkeypatch.setattr(official_files, "MAX_BYTES", 1 << 20)
    (tmp_path / "x.gz").write_bytes(gzip.compress(bytes([0, 0, 8, 1, 0, 32, 0, 0]) + bytes(2 << 20)))
    with pytest.raises(UserError, match=r"x\.gz is larger than 1 MiB"):
        read_idx(tmp_path / "x.gz")
