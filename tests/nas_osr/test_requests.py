"""What runs record of their classes, and what the records of earlier versions mean today."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from nas_osr.errors import UserError
from nas_osr.files.storage import read_config
from nas_osr.files.yaml_text import format_yaml
from nas_osr.plain import plain
from nas_osr.requests import DataOptions, name_former_classes, write_down
from nas_osr.retrain.reopen import read_retrain_config
from nas_osr.retrain.retrain_plan import plan_retrain
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.runs.run_folder import RunFolder

NASTY = ("0", "01", "1e3", "a, b", "it's", "no", "null", "true", "~", "[a]", "é ü", '"', "#x", "a: b")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for level, name in enumerate(NASTY):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(3):
            Image.new("L", (16, 16), 16 * level + index).save(tmp_path / "images" / name / f"{index}.png")
    return tmp_path / "images"


def test_the_record_of_own_images_repeats_the_run(folder: Path, tmp_path: Path) -> None:
    for asked in (
        {},
        {"known": list(NASTY[:5])},
        {"class_seed": 3},
        {"known": [["no", "null"], "0"], "unknown": ["~"]},
    ):
        request = write_down(DataOptions(protocol="folder", data_dir=str(folder), **asked), 0)
        assert (request.image_size, request.grey) == (32, True)
        record = tmp_path / "config.yaml"
        record.write_text(format_yaml(plain(vars(request), "config")))
        again = DataOptions(**read_config(record))
        assert again == request and write_down(again, 0) == request
        protocol = request.published_protocol(0)
        (folder / "0000").mkdir()
        Image.new("RGB", (200, 200)).save(folder / "0000" / "0.png")
        assert again.published_protocol(0) == protocol  # a class that comes later
        shutil.rmtree(folder / "0000")


def test_each_split_of_a_draw_is_written_down(folder: Path) -> None:
    request = RetrainRequest(protocol="folder", data_dir=str(folder), class_seed=1, splits="0-2", preset="tiny")
    plan = plan_retrain(request)
    known = [part.recorded["known"] for part in plan.parts]
    assert len({tuple(names) for names in known}) == 3
    for number, part in enumerate(plan.parts):
        again = RetrainRequest(**part.recorded)
        assert again.splits == str(number) and again.class_seed == 1
        protocol = again.protocol_of(number)
        assert (list(protocol.class_names), protocol.family, protocol.split) == (known[number], "seeded", number)


def test_numbers_of_named_sources_become_names() -> None:
    assert write_down(DataOptions(known=[0, "3", ["dog", 9]]), 0).known == ["airplane", "cat", ["dog", "truck"]]
    assert write_down(DataOptions(protocol="digits", known=["7", 1], unknown=[3]), 0).unknown == ["3"]
    assert write_down(DataOptions(class_seed=3), 0) == DataOptions(class_seed=3)
    assert write_down(DataOptions(), 0) == DataOptions()


def test_records_of_earlier_versions(tmp_path: Path) -> None:
    """Class ids were official label numbers, and what plays the unknown were labels."""
    record = {"protocol": "cifar10", "family": "arpl", "known": [0, [3, 5], 1], "splits": "0", "pseudo_unknown": [1]}
    today = name_former_classes(RetrainRequest, record, "file")
    assert today["known"] == ["airplane", ["cat", "dog"], "automobile"] and today["pseudo_unknown"] == ["cat+dog"]
    assert name_former_classes(RetrainRequest, today, "file") == today
    published = {"protocol": "digits", "family": "arpl", "split": 1, "pseudo_unknown": [0, 2]}
    named = name_former_classes(RetrainRequest, published, "file")["pseudo_unknown"]
    assert named == ["3", "6"] and name_former_classes(RetrainRequest, {"protocol": None}, "file") == {"protocol": None}
    run = RunFolder(tmp_path)
    config: dict[str, Any] = {**RetrainRequest().recorded(), **record, "objective": "cac", "rule": "cac", "seeds": "0"}
    del config["image_size"]
    run.write_yaml("config.yaml", config)
    protocol = read_retrain_config(run).protocol_of(0)
    assert protocol.known == (("airplane",), ("automobile",)) and protocol.unknown == ("cat", "dog")


def test_earlier_runs_on_own_images(tmp_path: Path) -> None:
    """Names that are no numbers say which classes were meant; what a model was trained on cannot be told any more."""
    record = {"protocol": "folder", "known": ["ant", ["bee", "cat"]], "split": 0, "pseudo_unknown": [1]}
    today = name_former_classes(RetrainRequest, record, "file")
    assert today == {**record, "image_size": 32, "grey": False, "pseudo_unknown": None}
    for change in ({"known": [0, 1]}, {"known": ["0", "ant"]}, {"known": None, "class_seed": 0}):
        with pytest.raises(UserError, match="file: of an earlier version, for which a class of own images was its"):
            name_former_classes(RetrainRequest, {**record, **change}, "file")
    config = {**RetrainRequest().recorded(), "protocol": "folder", "known": ["ant", "bee"]}
    del config["image_size"]
    run = RunFolder(tmp_path)
    run.write_yaml("config.yaml", config)
    with pytest.raises(UserError, match="config.yaml: of an earlier version, .* train it again"):
        read_retrain_config(run)
