"""`nas-osr data`: the three functions behind it, and downloading through local addresses."""

from __future__ import annotations

import functools
import hashlib
import pickle
import tarfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from nas_osr.cli import data as commands
from nas_osr.cli.main import main
from nas_osr.data.sources import SOURCES, download, open_source
from nas_osr.data.sources.cifar import CIFAR10
from nas_osr.data.sources.places import Archive
from nas_osr.data.tasks import PROTOCOLS
from nas_osr.errors import UserError


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server, on this machine only, of the files in tmp_path / "served"."""
    (tmp_path / "served").mkdir()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = functools.partial(QuietHandler, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


def write_cifar_archive(folder: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """A small archive in the official layout, whose files count as official, and where the server has it."""
    inside = folder / "made" / "cifar-10-batches-py"
    inside.mkdir(parents=True)
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        content = {"data": np.zeros((10, 3072), np.uint8), "labels": list(range(10))}
        (inside / name).write_bytes(pickle.dumps(content))
    official = hashlib.md5(pickle.dumps(content)).hexdigest()
    checksums = {part: dict.fromkeys(names, official) for part, names in CIFAR10.checksums.items()}
    monkeypatch.setattr(CIFAR10, "checksums", checksums)
    path = folder / "served" / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(inside, "cifar-10-batches-py")
    return Archive((f"{address}/{path.name}",), hashlib.md5(path.read_bytes()).hexdigest())


def test_list_names_every_protocol(capsys: pytest.CaptureFixture[str]) -> None:
    commands.list_protocols()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["protocol", *PROTOCOLS]
    cells = {line.split()[0]: line.split() for line in lines}
    assert cells["cifar+50"][1:4] == ["4", "50", "3x32x32"]
    assert "arpl 0-4, neal 0-4, nas_osr 0-4" in lines[1]


def test_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in open_source("cifar10").class_names:
        for part in ("train", "test"):
            (tmp_path / "cifar10" / part / name).mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(tmp_path / "cifar10" / part / name / "0.png")
    commands.check(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line for line in lines if not line.startswith(" ")}
    counted = "10 classes of 139 (class 8) to 146 (class 1) images, 1,438 in all, bundled with scikit-learn"
    assert rows["digits"].split(maxsplit=4) == ["digits", "yes", "digits", "train", counted]
    assert "10 of 50000 images: 10 classes of 1 image" in rows["cifar10"] and rows["cifar10"].split()[1] == "yes"
    assert rows["cifar+10"].split()[1] == "no" and rows["svhn"].split()[1] == "no"
    (tmp_path / "cifar10" / "train" / "kitten").mkdir()
    (tmp_path / "cifar10" / "train" / "kitten" / "x.png").touch()
    with pytest.raises(UserError, match="shown by kitten"):
        commands.check(tmp_path)
    assert "broken" in capsys.readouterr().out


def test_prepare_downloads_only_when_asked(
    tmp_path: Path, served: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = write_cifar_archive(tmp_path, served, monkeypatch)
    monkeypatch.setattr(CIFAR10, "archives", (archive,))
    target = tmp_path / "data"
    target.mkdir()
    with pytest.raises(UserError, match="run again with --download"):
        commands.prepare("cifar10", target)
    assert not list(target.iterdir())
    commands.prepare("cifar10", target, download=True)
    assert "cifar10 train: 50 of 50000" in capsys.readouterr().out
    assert [path.name for path in target.iterdir()] == ["cifar-10-batches-py"]
    assert len(open_source("cifar10", target).load("test", [3], (3, 32, 32))[0]) == 1
    commands.prepare("cifar10", target)


def test_the_first_command_of_the_readme_makes_the_folder(
    tmp_path: Path, served: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(CIFAR10, "archives", (write_cifar_archive(tmp_path, served, monkeypatch),))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert main(["data", "prepare", "cifar10", "--data_dir", "~/data"]) == 2
    assert "does not exist" in capsys.readouterr().err and not (tmp_path / "home").exists()
    assert main(["data", "prepare", "cifar10", "--data_dir", "~/data", "--download"]) == 0
    assert (tmp_path / "home" / "data" / "cifar-10-batches-py" / "test_batch").is_file()
    (tmp_path / "file").touch()
    assert main(["data", "prepare", "cifar10", "--data_dir", str(tmp_path / "file" / "data"), "--download"]) == 2
    assert "data cannot be made: Not a directory" in capsys.readouterr().err


def test_half_unpacked_files_are_mended_by_a_download(
    tmp_path: Path, served: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(CIFAR10, "archives", (write_cifar_archive(tmp_path, served, monkeypatch),))
    folder = tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    (folder / "data_batch_1").write_bytes(b"cut")
    for data_dir in (tmp_path / "data", folder):
        with pytest.raises(UserError, match=r"data_batch_1 is not the official file.*--download"):
            commands.prepare("cifar10", data_dir)
    commands.prepare("cifar10", folder, download=True)
    assert "cifar10 train: 50 of 50000 images" in capsys.readouterr().out
    assert len(list(folder.iterdir())) == 6 and [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_prepare_decodes_every_image_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("train", "test"):
        for name in ("cat", "plane"):
            (tmp_path / "cifar10" / part / name).mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(tmp_path / "cifar10" / part / name / "0.png")
    for number in range(1, 13):
        (tmp_path / "cifar10" / "train" / "cat" / f"{number}.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"12 files .* 1\.png \(damaged\), .* and 2 more: .*--skip_broken"):
        commands.prepare("cifar10", tmp_path)
    assert main(["data", "prepare", "cifar10", "--data_dir", str(tmp_path), "--skip_broken"]) == 0
    said = capsys.readouterr().out
    assert "cifar10 train: 2 of 50000 images: 2 classes of 1 image, 2 in all; passed over: files: 12 damaged;" in said


@pytest.mark.parametrize("mistake", ["checksum", "address"])
def test_a_failed_download_leaves_nothing(
    tmp_path: Path, served: str, monkeypatch: pytest.MonkeyPatch, mistake: str
) -> None:
    archive = write_cifar_archive(tmp_path, served, monkeypatch)
    urls = archive.urls if mistake == "checksum" else (f"{served}/nowhere.tar.gz",)
    bad = Archive(urls, "0" * 32)
    monkeypatch.setattr(CIFAR10, "archives", (bad,))
    monkeypatch.setattr("torchvision.datasets.utils.extract_archive", None)  # it is never asked
    target = tmp_path / "data"
    target.mkdir()
    with pytest.raises(UserError, match="cannot be downloaded") as caught:
        commands.prepare("cifar10", target, download=True)
    assert "\n" not in str(caught.value)
    assert not list(target.iterdir())


def test_a_second_address_is_tried(tmp_path: Path, served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = write_cifar_archive(tmp_path, served, monkeypatch)
    both = Archive((f"{served}/gone/cifar-10-python.tar.gz", *archive.urls), archive.md5)
    monkeypatch.setattr(CIFAR10, "archives", (both,))
    download.download_source(open_source("cifar10"), tmp_path / "data")
    assert (tmp_path / "data" / "cifar-10-batches-py" / "test_batch").is_file()


def test_archives_and_checksums_are_torchvisions() -> None:
    """The addresses and checksums, and where its data sets look for the files."""
    for name, theirs in (("cifar10", datasets.CIFAR10), ("cifar100", datasets.CIFAR100)):
        ours = open_source(name)
        assert ours.archives == (Archive((theirs.url,), theirs.tgz_md5),) and ours.official == theirs.base_folder
        for part, listed in (("train", theirs.train_list), ("test", theirs.test_list)):
            assert ours.checksums[part] == dict(listed)
    for name, mnist in (("mnist", datasets.MNIST), ("fashion-mnist", datasets.FashionMNIST)):
        ours = open_source(name)
        expected = {(tuple(base + file for base in mnist.mirrors), md5) for file, md5 in mnist.resources}
        assert {(archive.urls, archive.md5) for archive in ours.archives} == expected and len(ours.archives) == 4
        assert ours.official == ours.archive_folder == f"{mnist.__name__}/raw"
    svhn, listed = open_source("svhn"), datasets.SVHN.split_list  # never extra
    assert [(archive.urls[0], archive.md5) for archive in svhn.archives] == [
        (listed[part][0], listed[part][2]) for part in ("train", "test")
    ]
    assert svhn.checksums == {part: {listed[part][1]: listed[part][2]} for part in ("train", "test")}
    for name in SOURCES:
        source = open_source(name)
        assert bool(source.archives) == (name not in ("digits", "folder"))
        assert all(len(archive.md5) == 32 for archive in source.archives)
    with pytest.raises(UserError, match="nothing to download for digits"):
        download.download_source(open_source("digits"), Path("."))


def test_prepare_what_needs_no_download(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands.prepare("digits")
    assert "nothing to prepare" in capsys.readouterr().out
    with pytest.raises(UserError, match="unknown protocol"):
        commands.prepare("cifar11", tmp_path)
    for part in ("train", "test"):
        (tmp_path / part / "a").mkdir(parents=True)
        Image.new("RGB", (40, 30)).save(tmp_path / part / "a" / "x.png")
    commands.prepare("folder", tmp_path)
    assert "1 classes, 1 of them with training images" in capsys.readouterr().out
