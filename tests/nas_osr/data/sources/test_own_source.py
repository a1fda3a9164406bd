"""A data set of a user's own: a class in a module, by its dotted path, from the protocol to a trained network."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nas_osr.cli.data import prepare
from nas_osr.cli.main import main
from nas_osr.data.dataset import load_data
from nas_osr.data.outliers import load_outliers
from nas_osr.data.protocols import make_protocol, with_unknown
from nas_osr.data.sources import open_source
from nas_osr.data.sources.base import Source
from nas_osr.errors import UserError

PAGE = Path(__file__).resolve().parents[4] / "docs" / "how-to" / "own-source.md"
SMALL = ["--preset", "tiny", "--batch_size", "16", "--device", "cpu", "--threads", "1", "--quiet"]


class Stripes(Source):
    """Images that lie in folders of classes, under no official name."""

    name = "stripes"
    class_names = ("broad", "narrow", "slanted", "none")
    file_shape = image_shape = (3, 16, 32)
    mean = std = (0.5, 0.5, 0.5)


STRIPES = f"{__name__}.Stripes"


@pytest.fixture
def stripes(tmp_path: Path) -> Path:
    """Five training images and two test images a class; class i has the level 10 i."""
    for class_id, name in enumerate(Stripes.class_names):
        for part, count in (("train", 5), ("test", 2)):
            folder = tmp_path / "stripes" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (32, 16), (10 * class_id, number, 0)).save(folder / f"{number}.png")
    return tmp_path


def test_it_is_a_protocol_an_unknown_source_and_a_source_of_outliers(
    stripes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    protocol = make_protocol(STRIPES, known=["narrow", ["broad", "none"]])
    assert protocol.image_shape == (3, 16, 32) and protocol.unknown == ("slanted",) and protocol.mirrors
    data = load_data(protocol, stripes)
    labels = dict(zip(data.train.source_labels.tolist(), data.train.images[:, 0, 0, 0].tolist(), strict=True))
    assert labels == {0: 0, 1: 10, 3: 30} and len(data.test()) == 8
    drawn = make_protocol(STRIPES, 1, seed=3)
    assert drawn.num_known == 2 and drawn.family == "seeded"
    other = load_data(with_unknown(make_protocol("digits"), STRIPES), stripes, limit_per_class=3).test()
    assert other.images.shape[1:] == (1, 32, 32) and int((other.labels == 6).sum()) == 8
    assert load_outliers(STRIPES, make_protocol("digits"), stripes).shape == (20, 1, 32, 32)
    prepare(STRIPES, stripes)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{STRIPES}: 4 classes, 4 of them with training images"
    assert said[1] == f"{STRIPES} train: 4 classes of 5 images, 20 in all; in {stripes / 'stripes' / 'train'}"
    (stripes / "empty").mkdir()
    with pytest.raises(UserError, match="stripes is not in .*empty: put images as stripes/{train,test}/CLASS"):
        prepare(STRIPES, stripes / "empty", download=True)
    source = open_source(STRIPES, stripes)
    assert source.count_classes("train") == dict.fromkeys(range(4), 5) and source.count_training([0, 2]) == {0: 5, 2: 5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "needs known classes or a seed that draws them; its classes are broad, narrow, slanted, none"),
        ({"known": ["broad", "striped"]}, "has no class 'striped'"),
        ({"family": "neal", "seed": 1}, "has no splits of family 'neal'"),
        ({"seed": 1, "image_size": 64}, "has a fixed size"),
    ],
)
def test_mistakes(stripes: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_protocol(STRIPES, **change)


def test_a_name_alone_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run folder names its protocol as well: only what is imported, or named with --plugin, is looked at."""
    (tmp_path / "trap_set.py").write_text("open('it-ran', 'w')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for ask in (make_protocol, open_source, lambda name: with_unknown(make_protocol("digits"), name)):
        with pytest.raises(UserError, match="plug-in that is not loaded: add --plugin trap_set"):
            ask("trap_set.Flowers")
    with pytest.raises(UserError, match="has no class Path derived from Source"):
        make_protocol("pathlib.Path", seed=1)
    assert not (tmp_path / "it-ran").exists()


def test_a_class_that_is_renamed_is_noticed(stripes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = make_protocol(STRIPES, known=["broad", "narrow"])
    monkeypatch.setattr(Stripes, "class_names", ("broad", "slanted", "narrow", "none"))
    assert load_data(protocol, stripes).train.source_labels.unique().tolist() == [0, 2]  # it is found by its name
    monkeypatch.setattr(Stripes, "class_names", ("broad", "slim", "slanted", "none"))
    with pytest.raises(UserError, match="stripes has no class narrow"):
        load_data(protocol, stripes)


@pytest.fixture
def rings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The module of the documentation, where Python finds it."""
    (code,) = re.findall(r"```python\n([^`]*\(Source\):[^`]*)```", PAGE.read_text())
    (tmp_path / "my_sets.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("my_sets", None)


def test_the_source_of_the_docs_is_searched_trained_and_evaluated(
    rings: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--plugin", "my_sets", "--protocol", "my_sets.Rings", *SMALL]
    found, trained = str(tmp_path / "found"), str(tmp_path / "trained")
    assert main(["data", "prepare", "my_sets.Rings"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(
        "my_sets.Rings: bundled with my_sets, nothing to prepare\nmy_sets.Rings train: 5 classes of "
    )
    search = ["search", *asked, "--class_seed", "0", "--epochs", "2", "--warmup_epochs", "1", "--out", found]
    assert main(search) == 0
    known = ["--known", "3,11,5", "--epochs", "1", "--bootstrap", "0", "--out", trained]
    assert main(["retrain", found, *asked, "--objective", "cross_entropy", *known]) == 0
    sys.modules.pop("my_sets")
    evaluate = ["evaluate", trained, "--bootstrap", "0", "--device", "cpu"]
    assert main(evaluate) == 2 and "--plugin my_sets" in capsys.readouterr().err
    assert main([*evaluate, "--plugin", "my_sets"]) == 0
    assert main([*evaluate, "--plugin", "my_sets", "--unknown", "my_sets.Rings"]) == 0
    images, ids = open_source("my_sets.Rings").load("test", [4], (1, 32, 32))
    assert images.shape == (20, 1, 32, 32) and np.unique(ids).tolist() == [4]
