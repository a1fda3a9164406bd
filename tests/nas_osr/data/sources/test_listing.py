"""What is taken for a class and for an image, in a stable order, and what is passed over is said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nas_osr.data.counting import describe_counts
from nas_osr.data.sources import open_source
from nas_osr.data.sources.listing import PassedOver, list_class_folders, list_images
from nas_osr.errors import UserError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_what_is_no_class_is_said(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.png", "dog/deep/down/b.JPG", "notes/x.txt", "__MACOSX/cat/._a.png", "@eaDir/a.png")
    touch(tmp_path, ".git/a.png", ".ipynb_checkpoints/a.png", "lost+found/a.png", ".DS_Store", "Thumbs.db", "c.png")
    (tmp_path / "empty").mkdir()
    passed = PassedOver()
    assert list_class_folders(tmp_path, passed) == ["cat", "dog"]
    assert str(passed) == (
        "folders .git, .ipynb_checkpoints, @eaDir, __MACOSX, empty (no image in it) and 2 more; "
        "files: 2 hidden, 1 not in a class folder"
    )


def test_sub_folders_of_a_class_are_read(tmp_path: Path) -> None:
    touch(tmp_path, "b.png", "a/z.gif", "c/1.tif", "a/deeper/y.bmp", "a.png", ".x.png", "notes.txt", "@eaDir/b.png")
    passed = PassedOver()
    found = [str(path.relative_to(tmp_path)) for path in list_images(tmp_path, passed)]
    assert found == ["a/deeper/y.bmp", "a/z.gif", "a.png", "b.png", "c/1.tif"]
    assert str(passed) == "folders @eaDir; files: 1 hidden, 1 of no image's suffix"


def test_links_that_go_round_end(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.png", "cat/more/b.png", "elsewhere/c.png")
    (tmp_path / "cat" / "more" / "up").symlink_to("..")
    (tmp_path / "cat" / "other").symlink_to("../elsewhere")
    passed = PassedOver()
    assert [path.name for path in list_images(tmp_path / "cat", passed)] == ["a.png", "b.png", "c.png"]
    assert str(passed) == "folders more/up (a link to one that is read)"


@given(names=st.sets(st.text("abcXYZ019 _-", min_size=1, max_size=6), max_size=8))
def test_files_of_one_folder_are_sorted_by_name(tmp_path_factory: pytest.TempPathFactory, names: set[str]) -> None:
    """As ever: the validation images of a run hang on it."""
    folder = tmp_path_factory.mktemp("class")
    touch(folder, *(f"{name}.png" for name in names))
    assert list_images(folder) == [folder / name for name in sorted(os.listdir(folder))]


def test_what_is_passed_over_is_counted(tmp_path: Path) -> None:
    for name, count in (("cat", 3), ("dog", 1)):
        touch(tmp_path / "cifar10" / "train" / name, ".complete", "notes.txt")
        for number in range(count):
            Image.new("RGB", (32, 32)).save(tmp_path / "cifar10" / "train" / name / f"{number}.png")
    touch(tmp_path / "cifar10" / "train", "cat/bad.png")
    source = open_source("cifar10", tmp_path)
    with pytest.raises(UserError, match=r"bad\.png cannot be read"):
        source.load("train", [3, 5], (3, 32, 32))
    with pytest.raises(UserError, match=r"bad\.png cannot be read"):
        source.count_classes("train", decode=True)
    assert source.count_classes("train") == {3: 4, 5: 1}
    source = open_source("cifar10", tmp_path, skip_broken=True)
    assert source.load("train", [3, 5], (3, 32, 32))[1].tolist() == [3, 3, 3, 5]
    said = "files: 1 damaged, 2 hidden, 2 of no image's suffix"
    assert str(source.passed_over) == said
    assert source.count_classes("train", decode=True) == {3: 3, 5: 1}
    assert describe_counts({"cat": 3, "dog": 1}, source.passed_over) == (
        f"2 classes of 1 (class dog) to 3 (class cat) images, 4 in all; passed over: {said}"
    )
    source.load("train", [5], (3, 32, 32))
    assert str(source.passed_over) == "files: 1 hidden, 1 of no image's suffix"  # counted anew


def test_a_class_of_broken_images_alone_is_not_dropped(tmp_path: Path) -> None:
    touch(tmp_path, "cifar10/train/cat/bad.png")
    with pytest.raises(UserError, match="has no train image of class cat"):
        open_source("cifar10", tmp_path, skip_broken=True).load("train", [3], (3, 32, 32))
