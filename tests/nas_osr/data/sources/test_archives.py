"""Archives write below their folder, plain files alone, and not without end."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from nas_osr.data.sources import archives
from nas_osr.data.sources.archives import unpack
from nas_osr.errors import UserError

OUTSIDE = ["../evil", "a/../../evil", "/tmp/nas-osr-evil", "..", "a/..", "..\\evil"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in" / "here").mkdir(parents=True)
    return tmp_path / "in" / "here"


def everything(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def refuse(archive: Path, folder: Path, message: str) -> None:
    """Nothing but what lies below the folder may have changed."""
    root = folder.parents[1]
    before = everything(root)
    with pytest.raises(UserError, match=message) as caught:
        unpack(archive, folder)
    assert archive.name in str(caught.value) and "\n" not in str(caught.value)
    assert {name for name in everything(root) - before if not name.startswith("in/here/")} == set()
    assert not Path("/tmp/nas-osr-evil").exists()
    assert not any(path.is_symlink() for path in root.rglob("*"))


def write_tar(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for member in members:
            member.size = 4 if member.isreg() else 0
            archive.addfile(member, io.BytesIO(b"evil") if member.isreg() else None)
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, 0o6777
    return info


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_lead_out_are_refused(name: str, folder: Path, tmp_path: Path) -> None:
    refuse(write_tar(tmp_path / "x.tar", member("fine"), member(name)), folder, "leads out of the folder")
    (folder / "fine").unlink()
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("fine", b"fine")
        archive.writestr(zipfile.ZipInfo(name), b"evil")
    refuse(tmp_path / "x.zip", folder, "leads out of the folder")


@pytest.mark.parametrize(
    ("kind", "link"),
    [
        (tarfile.SYMTYPE, "/etc"),
        (tarfile.SYMTYPE, "fine"),
        (tarfile.LNKTYPE, "../../secret"),
        (tarfile.CHRTYPE, ""),
        (tarfile.BLKTYPE, ""),
        (tarfile.FIFOTYPE, ""),
    ],
)
def test_links_and_devices_are_refused(kind: bytes, link: str, folder: Path, tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "x.tar.gz", member("fine"), member("odd", kind, link), member("odd/inside"))
    refuse(archive, folder, "'odd' is neither a file nor a folder")


def test_links_in_a_zip_are_refused(folder: Path, tmp_path: Path) -> None:
    info = zipfile.ZipInfo("odd")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(info, "/etc")
    refuse(tmp_path / "x.zip", folder, "'odd' is neither a file nor a folder")


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz", "x.gz"])
def test_what_unpacks_without_end_is_refused(
    name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MAX_BYTES", 3 << 20)
    content = bytes(4 << 20)
    path = tmp_path / name
    if name == "x.zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("zeros", content)
    elif name == "x.gz":
        path.write_bytes(gzip.compress(content))
    else:
        info = tarfile.TarInfo("zeros")
        info.size = len(content)
        with tarfile.open(path, "w:gz") as archive_tar:
            archive_tar.addfile(info, io.BytesIO(content))
    assert path.stat().st_size < 10_000
    refuse(path, folder, "more than 0 GiB when unpacked")
    assert sum(file.stat().st_size for file in folder.rglob("*")) <= 3 << 20


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz", "x.gz", "x.rar"])
def test_damage_is_one_line(name: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x1f\x8b no archive")
    refuse(tmp_path / name, folder, f"{name} cannot be unpacked")


def test_sound_archives_come_out_whole_and_without_special_permissions(folder: Path, tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar.gz", member("a", tarfile.DIRTYPE), member("a/b/set-uid"))
    unpack(tmp_path / "x.tar.gz", folder)
    with zipfile.ZipFile(tmp_path / "y.zip", "w") as archive:
        archive.writestr("c/", b"")
        archive.writestr("c/d", b"text")
    unpack(tmp_path / "y.zip", folder)
    (tmp_path / "idx.gz").write_bytes(gzip.compress(b"values"))
    unpack(tmp_path / "idx.gz", folder)
    assert everything(folder) == {"a", "a/b", "a/b/set-uid", "c", "c/d", "idx"}
    assert [(folder / name).read_bytes() for name in ("a/b/set-uid", "c/d", "idx")] == [b"evil", b"text", b"values"]
    assert not os.stat(folder / "a" / "b" / "set-uid").st_mode & 0o7111
