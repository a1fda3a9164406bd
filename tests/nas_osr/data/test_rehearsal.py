"""Rehearsals: which classes play the unknown, and which images the test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from nas_osr.data.dataset import load_data
from nas_osr.data.protocols import Protocol, make_protocol, with_unknown
from nas_osr.data.rehearsal import check_pseudo_unknown, rehearse
from nas_osr.data.sources import open_source
from nas_osr.errors import UserError


def pixels(images: Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True), st.integers(0, 4))
def test_known_classes_are_divided_and_the_unknown_ones_are_gone(pseudo: list[int], split: int) -> None:
    whole = make_protocol("cifar10", split)
    own = rehearse(whole, [whole.class_names[label] for label in pseudo])
    assert own.known == tuple(group for label, group in enumerate(whole.known) if label not in pseudo)
    assert sorted(own.unknown) == sorted(whole.known[label][0] for label in pseudo)
    assert not set(own.unknown) & set(whole.unknown) and own.unknown_source == whole.source
    assert Protocol.from_dict(own.to_dict()) == own


def test_merged_classes_play_the_unknown_together() -> None:
    whole = make_protocol("digits", known=[0, [3, 5], 7, [8, 1]])
    for name in ("3+5", "3", "5", 5):
        own = rehearse(whole, [name])
        assert (own.known, own.unknown) == ((("0",), ("7",), ("8", "1")), ("3", "5"))
    with pytest.raises(UserError, match="pseudo_unknown: 3 is named twice"):
        rehearse(whole, ["3", "5"])


def test_the_unknown_of_a_published_search_and_of_another_source_play_no_part() -> None:
    assert rehearse(make_protocol("cifar10", family="nas_osr"), ["cat"]).pseudo_unknown is None
    own = rehearse(make_protocol("cifar+10"), ["horse"])
    assert (own.unknown_source, len(own.unknown)) == ("cifar10", 1)
    with pytest.raises(UserError, match="a rehearsal opens no test images"):
        with_unknown(own, "svhn")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([6], "different labels from 0 to 5, got \\[6\\]"),
        ([-1], "different labels"),
        ([True], "different labels"),
        ([2, 2], "different labels"),
        ([0, 1, 2, 3, 4], "fewer than 2 of the 6"),
    ],
)
def test_labels_that_cannot_play_the_unknown(labels: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_pseudo_unknown(labels, 6)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "names no class"),
        (["0"], "0 is not a known class of digits; those are 2, 4, 5, 9, 8, 3"),
        (["2", "2"], "2 is named twice"),
        (["2", "4", "5", "9", "8"], "fewer than 2 of the 6"),
    ],
)
def test_classes_that_cannot_play_the_unknown(names: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        rehearse(make_protocol("digits"), names)


def test_training_images_are_the_test() -> None:
    whole, own = make_protocol("digits"), rehearse(make_protocol("digits"), ["4", "8"])
    data, ordinary = load_data(own), load_data(whole)
    test = data.test()
    for first, second in ((data.train, data.validation), (data.train, test), (data.validation, test)):
        assert not pixels(first.images) & pixels(second.images)
    kept = torch.isin(ordinary.validation.source_labels, torch.tensor(list(map(int, own.label_map))))
    assert torch.equal(data.validation.images, ordinary.validation.images[kept])  # as in a search
    digits = [int(name) for name in (*own.label_map, *own.unknown)]
    every, classes = open_source("digits").load("train", digits, own.image_shape)
    for class_id in digits:
        there = every[classes == class_id]
        chosen = test.source_labels == class_id
        assert pixels(test.images[chosen]) <= pixels(there) and int(chosen.sum()) == round(0.2 * len(there))
        expected = own.label_map.get(str(class_id), own.num_known)
        assert test.labels[chosen].tolist() == [expected] * int(chosen.sum())
    assert sorted(set(test.source_labels.tolist())) == sorted(digits)
    known = torch.isin(classes, torch.tensor(list(map(int, own.label_map))))
    assert pixels(every[known]) == pixels(data.train.images) | pixels(data.validation.images) | pixels(
        test.images[test.labels < own.num_known]
    )
    again = load_data(rehearse(whole, ["4"])).test()  # a class sets the same images aside in every rehearsal
    known_in_both = int(own.known[0][0])
    assert pixels(again.images[again.source_labels == known_in_both]) == pixels(
        test.images[test.source_labels == known_in_both]
    )


def test_every_class_needs_an_image_for_each_part(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    for name, count in (("a", 3), ("b", 3), ("c", 2)):
        for index in range(count):
            folder = tmp_path / "train" / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((16, 16, 3), 16 * index, dtype=np.uint8)).save(folder / f"{index}.png")
    whole = make_protocol("folder", known=["a", "b", "c"], data_dir=tmp_path)
    with pytest.raises(UserError, match="training images of class c: 2, at least 3 are needed"):
        load_data(rehearse(whole, ["c"]), tmp_path)
    (tmp_path / "train" / "c" / "2.png").write_bytes((tmp_path / "train" / "c" / "0.png").read_bytes())
    data = load_data(rehearse(whole, ["c"]), tmp_path)
    assert (len(data.train), len(data.validation), len(data.test())) == (2, 2, 3)
