"""Images of every odd kind: each gives the pixels that are documented, or one line that names the file."""

from __future__ import annotations

import io
import os
import resource
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from nas_osr.data.sources import image_files
from nas_osr.data.sources.image_files import find_unreadable, read_images, try_images
from nas_osr.data.sources.listing import PassedOver, list_class_folders, list_images
from nas_osr.errors import UserError

SHAPE = (3, 16, 16)


def read(path: Path, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """[H, W, C]"""
    return read_images([path], shape, convert=True)[0].transpose(1, 2, 0)


def refuse(path: Path, message: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing else is printed
        for convert in (True, False):
            with pytest.raises(UserError, match=message) as caught:
                read_images([path], SHAPE, convert=convert)
            assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def png(width: int, height: int, bits: int = 8, kind: int = 2, data: bytes = b"") -> bytes:
    """A PNG with a header that says anything."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def test_one_bit(tmp_path: Path) -> None:
    Image.new("1", (16, 16), 1).save(tmp_path / "x.png")
    assert (read(tmp_path / "x.png") == 255).all()


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_of_sixteen_bits_the_upper_half_counts(tmp_path: Path, suffix: str) -> None:
    values = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    path = tmp_path / f"x.{suffix}"
    if suffix == "pgm":
        path.write_bytes(b"P5 16 16 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(path)
    expected = (values // 256).astype(np.uint8)
    assert (read(path) == expected[:, :, None]).all()
    assert (read_images([path], (1, 16, 16))[0, 0] == expected).all()  # of a source of grey images, too
    with pytest.raises(UserError, match="not 8-bit colour"):
        read_images([path], SHAPE)
    row = b"\x00" + struct.pack(">3H", 0x12FF, 0x8000, 0xFE01) * 16
    (tmp_path / "y.png").write_bytes(png(16, 16, bits=16, data=row * 16))
    assert (read(tmp_path / "y.png") == [0x12, 0x80, 0xFE]).all()


def test_cmyk(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "x.jpg", quality=100)
    pixels = read(tmp_path / "x.jpg").astype(int)
    assert (abs(pixels - [255, 0, 0]) < 8).all()  # no cyan: red


@pytest.mark.parametrize("kind", ["palette", "RGBA", "LA", "webp"])
def test_transparency_is_dropped_and_the_colour_under_it_kept(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("x.webp" if kind == "webp" else "x.png")
    if kind == "palette":
        image = Image.new("P", (16, 16), 1)
        image.putpalette([0, 0, 0, 9, 8, 7])
        image.save(path, transparency=bytes([255, 0]))
    elif kind == "LA":
        Image.new("LA", (16, 16), (9, 0)).save(path)
    else:
        Image.new("RGBA", (16, 16), (9, 8, 7, 0)).save(path, lossless=True, exact=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert (read(path) == ([9, 9, 9] if kind == "LA" else [9, 8, 7])).all()


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_of_an_animation_the_first_picture_counts(tmp_path: Path, suffix: str) -> None:
    first, second = Image.new("RGB", (16, 16), (9, 8, 7)), Image.new("RGB", (16, 16), (200, 0, 0))
    first.save(tmp_path / f"x.{suffix}", save_all=True, append_images=[second], duration=50, lossless=True)
    with Image.open(tmp_path / f"x.{suffix}") as opened:
        assert getattr(opened, "n_frames", 1) == 2
    assert (read(tmp_path / f"x.{suffix}") == [9, 8, 7]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotated_photographs_stand_upright(tmp_path: Path, orientation: int) -> None:
    """The camera's eight orientations, undone by hand with numpy."""
    upright = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    image = Image.fromarray(np.ascontiguousarray(stored))
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / "x.png", exif=exif)
    assert np.array_equal(read(tmp_path / "x.png"), upright)


@pytest.mark.parametrize(("width", "height"), [(0, 0), (0, 16), (16, 0)])
def test_images_without_pixels_are_refused(tmp_path: Path, width: int, height: int) -> None:
    (tmp_path / "x.png").write_bytes(png(width, height))
    refuse(tmp_path / "x.png", "cannot be read as an image")


@pytest.mark.parametrize("side", [8193, 10_000, 20_000, 2**31 - 1])
def test_hundreds_of_megapixels_are_refused_before_they_take_memory(tmp_path: Path, side: int) -> None:
    """100 MP are 10,000 x 10,000; the file itself is small."""
    (tmp_path / "x.png").write_bytes(png(side, side))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refuse(tmp_path / "x.png", r"scale it down|cannot be read as an image \(Image size .* exceeds limit")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10  # KiB


def test_the_largest_images_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "MAX_PIXELS", 32 * 32)
    monkeypatch.setattr(image_files, "_MANY_PIXELS", 20 * 20)
    Image.new("RGB", (32, 32), (1, 2, 3)).save(tmp_path / "x.png")
    assert (read_images([tmp_path / "x.png"] * 3, SHAPE, convert=True)[:, 1] == 2).all()
    Image.new("RGB", (32, 33)).save(tmp_path / "x.png")
    refuse(tmp_path / "x.png", "has 1,056 pixels, more than 1,024")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_the_content_counts_and_not_the_name(tmp_path: Path, kind: str, suffix: str) -> None:
    Image.new("RGB", (16, 16), (128, 128, 128)).save(tmp_path / f"x.{suffix}", kind)
    assert (abs(read(tmp_path / f"x.{suffix}").astype(int) - 128) < 3).all()


@pytest.mark.parametrize("mode", ["F", "I"])
def test_images_without_a_white_are_refused(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (16, 16), 7).save(tmp_path / "x.tif")
    refuse(tmp_path / "x.tif", f"has mode {mode}, where nothing says what is white")


@pytest.mark.parametrize("suffix", ["bmp", "gif", "tif", "tiff", "ppm", "avif", "heic", "jfif", "jpe"])
def test_every_suffix_is_listed_and_read(tmp_path: Path, suffix: str) -> None:
    if suffix == "heic":
        pytest.importorskip("pillow_heif")
    if suffix == "avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    path = tmp_path / f"x.{suffix.upper()}"
    kind = {"heic": "HEIF", "jfif": "JPEG", "jpe": "JPEG", "tif": "TIFF", "tiff": "TIFF"}.get(suffix, suffix.upper())
    Image.new("RGB", (16, 16), (200, 100, 50)).save(path, kind)
    assert list_images(tmp_path) == [path]
    for convert in (True, False):
        pixels = read_images([path], SHAPE, convert=convert)[0].transpose(1, 2, 0).astype(int)
        assert (abs(pixels - [200, 100, 50]) < 8).all()


def test_heic_without_its_package_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "_HEIF", False)
    monkeypatch.setattr(image_files, "FORMATS", ["PNG", "JPEG"])
    (tmp_path / "x.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    refuse(tmp_path / "x.heic", "needs `pip install 'nas-osr.heic.'`")


def test_all_offenders_are_named_up_to_ten(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number:02}.png" for number in range(20)]
    for number, path in enumerate(paths):
        Image.new("RGB", (16, 16 if number != 3 else 17)).save(path)
        if number % 2:
            path.write_bytes(b"x")
    Image.new("RGB", (17, 16)).save(paths[3])
    with pytest.raises(UserError) as caught:
        read_images(paths, SHAPE)
    said = str(caught.value)
    assert said.startswith(f"{tmp_path}: 10 files ") and "03.png (of another size)" in said
    assert all(f"{number:02}.png (damaged)" in said for number in (1, 5, 19)) and "more" not in said
    paths[0].write_bytes(b"x")
    with pytest.raises(UserError, match=r"17\.png \(damaged\) and 1 more: .*--skip_broken"):
        read_images(paths, SHAPE)
    images, unreadable = try_images(paths, SHAPE)
    assert list(unreadable) == [0, *range(1, 20, 2)] and not images[2].any()
    assert list(find_unreadable(paths, SHAPE)) == list(unreadable)


@pytest.mark.parametrize("kind", ["EPS", "PDF", "ICO"])
def test_other_formats_are_refused_under_any_name(tmp_path: Path, kind: str) -> None:
    """Pillow would start Ghostscript for an EPS."""
    Image.new("RGB", (16, 16)).save(tmp_path / "x.png", kind)
    refuse(tmp_path / "x.png", "cannot be read as an image")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_every_truncation_is_refused(tmp_path: Path, kind: str) -> None:
    written = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(written, kind)
    content = written.getvalue()
    for length in [*range(0, 40), *range(40, len(content) - 30, 37)]:
        (tmp_path / "x.png").write_bytes(content[:length])
        refuse(tmp_path / "x.png", "cannot be read as an image")


def test_things_that_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    passed = PassedOver()
    assert len(list_images(tmp_path, passed)) == 4 and not passed  # folder.png may hold images
    for name in ("folder", "pipe", "zero"):
        refuse(tmp_path / f"{name}.png", f"{name}.png is not a file")
    for name in ("loop", "gone"):
        refuse(tmp_path / f"{name}.png", f"{name}.png cannot be read as an image")


def test_links_among_class_folders(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "x.png").touch()
    (tmp_path / "kitten").symlink_to("cat")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "gone").symlink_to("nowhere")
    assert list_class_folders(tmp_path) == ["cat", "kitten"]
    with pytest.raises(UserError, match="nowhere: cannot list"):
        list_class_folders(tmp_path / "nowhere")
    with pytest.raises(UserError, match="loop: cannot list"):
        list_images(tmp_path / "loop")


def test_names_that_are_not_utf_8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    with open(folder + b"/\xff.png", "wb") as file:
        Image.new("RGB", (16, 16), (1, 2, 3)).save(file, "PNG")
    (name,) = list_class_folders(tmp_path)
    (path,) = list_images(tmp_path / name)
    assert (read(path) == [1, 2, 3]).all()
    path.write_bytes(b"damaged")
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(caught.value).encode("utf-8", "backslashreplace").startswith(os.fsencode(tmp_path))
