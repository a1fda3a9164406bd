"""A trained model that is asked: the same answers whatever images come as, and what is refused."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import nas_osr
from nas_osr import OpenSetModel, UserError
from nas_osr.data.dataset import load_data
from nas_osr.data.protocols import make_protocol
from nas_osr.data.sources.shapes import resize
from nas_osr.deploy.pictures import split_axes
from nas_osr.evaluation.predictions import read_predictions

TestSet = tuple[torch.Tensor, list[str]]


@pytest.fixture(scope="module")
def model(trained: Path) -> OpenSetModel:
    return nas_osr.load(trained, device="cpu")


@pytest.fixture(scope="module")
def test_set() -> TestSet:
    """The test images of the protocol, uint8 [n, 1, 32, 32], and the digits that they are."""
    protocol = make_protocol("digits")
    test = load_data(protocol, limit_per_class=60).test()
    return test.images, [protocol.class_names[label] if label < 6 else "?" for label in test.labels.tolist()]


def test_it_says_what_its_run_said(model: OpenSetModel, trained: Path, test_set: TestSet) -> None:
    images, truth = test_set
    written = read_predictions(trained / "split-0" / "predictions.csv")
    answers = model.ask(images)
    assert model.classes_.tolist() == ["2", "4", "5", "9", "8", "3"] and model.unknown == "unknown"
    assert np.array_equal(answers.knownness, written.knownness) and np.array_equal(
        answers.labels, written.predicted_label
    )
    predicted, probabilities = model.predict(images), model.predict_proba(images)
    assert set(predicted) == {*model.classes_, "unknown"}
    assert np.array_equal(predicted == "unknown", model.decision_function(images) < 0)
    assert probabilities.shape == (len(images), 6) and np.allclose(probabilities.sum(1), 1)
    assert np.array_equal(model.classes_[probabilities.argmax(1)], model.classes_[written.closed_set_label])
    logits = written.class_scores - written.class_scores.max(1, keepdims=True)
    assert np.allclose(probabilities, np.exp(logits) / np.exp(logits).sum(1, keepdims=True))
    right = [name == (label if label != "?" else "unknown") for name, label in zip(predicted, truth, strict=True)]
    assert model.score(images, truth) == np.mean(right) > 0.5
    assert np.array_equal(nas_osr.load(trained / "split-0" / "model", batch_size=7).predict(images), predicted)


def test_images_may_come_as_anything(model: OpenSetModel, tmp_path: Path, test_set: TestSet) -> None:
    images = test_set[0][:6]
    expected, array = model.decision_function(images), images.numpy()
    paths = [tmp_path / f"{index}.png" for index in range(6)]
    pictures = [Image.fromarray(image[0]) for image in array]
    for picture, path in zip(pictures, paths, strict=True):
        picture.save(path)
    ways: list[Any] = [
        array, array[:, 0], array.transpose(0, 2, 3, 1), array.astype(np.int64), np.repeat(array, 3, axis=1),
        array / 255, array[:, 0].astype("f4") / 255, images.float() / 255, images.double() / 255,
        list(images), list(array[:, 0]), [images[:2], array[2:]], paths, [str(path) for path in paths], tuple(paths),
        pictures, [picture.convert("RGB") for picture in pictures],
    ]  # fmt: skip
    for way in ways:
        assert np.array_equal(model.decision_function(way), expected)
    for one in (
        paths[0],
        str(paths[0]),
        pictures[0],
        array[0],
        array[0, 0],
        array[0].transpose(1, 2, 0),
        array[0] / 255,
    ):
        assert model.decision_function(one).tolist() == pytest.approx(expected[:1].tolist(), rel=1e-5)


def test_other_sizes_go_the_way_of_the_training_images(model: OpenSetModel, pictures: Path, tmp_path: Path) -> None:
    # an 8x8 file is what the digits were made of: resized to 32x32 as they were
    path = sorted((pictures / "2").iterdir())[0]
    small = np.asarray(Image.open(path))
    large = resize(torch.from_numpy(small.copy())[None, None], 32, 32)
    expected = model.decision_function(large)
    assert model.decision_function(path).tolist() == model.decision_function(small).tolist() == expected.tolist()
    # larger and oblong ones are scaled and cropped to 8x8 first; turned ones are turned upright
    wide = Image.fromarray(np.pad(small.repeat(8, 0).repeat(8, 1), ((0, 0), (32, 32))))
    reduced = wide.resize((8, 8), Image.Resampling.BILINEAR, box=(32, 0, 96, 64))
    assert model.decision_function(wide).tolist() == model.decision_function(np.asarray(reduced)).tolist()
    turned = wide.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    assert model.decision_function(tmp_path / "turned.png").tolist() == model.decision_function(wide).tolist()


MISTAKES: list[tuple[Any, str]] = [
    ([], "there are no images"),
    (np.zeros((0, 32, 32)), "there are no images"),
    (np.full((1, 32, 32), 300), "values from 0 to 255, got 300 to 300"),
    (np.full((1, 32, 32), 1.5), "values from 0 to 1, got 1.5 to 1.5"),
    (np.full((1, 32, 32), np.nan), "got nan to nan"),
    (np.array([["a"]]), "not of type <U1"),
    (np.zeros((2, 2, 32, 32)), r"shape \[2, 2, 32, 32\]"),
    (np.zeros(5), r"shape \[5\]"),
    ("/nowhere/a.png", "/nowhere/a.png cannot be read"),
    (Image.new("F", (4, 4)), "nothing says what is white"),
]


@pytest.mark.parametrize(("images", "message"), MISTAKES)
def test_mistakes_are_one_line(images: Any, message: str, model: OpenSetModel) -> None:
    with pytest.raises(UserError, match=message):
        model.predict(images)


def test_colour_and_grey_axes() -> None:
    shapes = {
        (5, 6): (1, 1, 5, 6), (4, 5, 6): (4, 1, 5, 6), (5, 6, 3): (1, 3, 5, 6), (5, 6, 1): (1, 1, 5, 6),
        (2, 5, 6, 3): (2, 3, 5, 6), (2, 3, 5, 6): (2, 3, 5, 6), (2, 1, 5, 6): (2, 1, 5, 6), (2, 5, 6, 1): (2, 1, 5, 6),
    }  # fmt: skip
    for before, after in shapes.items():
        for channels in (1, 3):
            assert split_axes(np.zeros(before), channels).shape == after
    assert split_axes(np.zeros((3, 5, 6)), 1).shape == (3, 1, 5, 6)
    assert split_axes(np.zeros((3, 5, 6)), 3).shape == (1, 3, 5, 6)


def test_the_network_is_a_plain_module(model: OpenSetModel, test_set: TestSet) -> None:
    images = test_set[0][:3].float() / 255
    assert isinstance(model.network, torch.nn.Module) and not model.network.training
    logits = model.network(images).logits
    assert logits.requires_grad and logits.shape == (3, 6)
    assert model.network.encoder(images).branches[2].shape == (3, 64, 2, 2)
    assert np.allclose(logits.detach().softmax(1).numpy(), model.predict_proba(images))


def test_a_class_called_unknown_stays_apart(trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained / "split-0" / "model", tmp_path / "model"))
    text = (folder / "model.json").read_text()
    changed = re.sub(r'("classes": \[\s*)"2"', r'\1"unknown"', text)
    assert changed != text
    (folder / "model.json").write_text(changed)
    model = nas_osr.load(folder, device="cpu")
    assert model.classes_[0] == "unknown" and model.unknown == "_unknown"
    assert set(model.predict(np.zeros((1, 32, 32)))) <= {"_unknown", *model.classes_}


def test_what_is_asked_for_is_checked(trained: Path, model: OpenSetModel) -> None:
    with pytest.raises(UserError, match="batch_size must be a whole number"):
        nas_osr.load(trained, batch_size=0)
    with pytest.raises(UserError, match="unknown device 'gpu'"):
        nas_osr.load(trained, device="gpu")
    with pytest.raises(UserError, match="plug-in nothing_such"):
        nas_osr.load(trained, plugins=["nothing_such"])
    with pytest.raises(UserError, match="2 images have 1 labels"):
        model.score(np.zeros((2, 32, 32)), ["2"])
    assert "6 known classes: 2, 4, 5, 9, 8, ...; rule mls" in repr(model)
