"""Given unknown images: which classes may serve, how they are read, and how they come into a run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nas_osr.data.dataset import load_data
from nas_osr.data.outliers import fingerprint_learned, load_outliers, outlier_classes
from nas_osr.data.protocols import make_protocol
from nas_osr.data.sources import open_source
from nas_osr.errors import UserError
from nas_osr.retrain.evaluate import run_evaluate
from nas_osr.retrain.retrain_request import EvaluateRequest, RetrainRequest
from nas_osr.retrain.run import run_retrain
from nas_osr.runs.run_folder import RunFolder
from nas_osr.strategies.run import run_search
from nas_osr.strategies.search_request import SearchRequest


def write_images(folder: Path, names: tuple[str, ...] | list[str], count: int, side: int = 32) -> None:
    """Colour images of one level each: class number * 2 + 1, then 0 in green, the image's number in blue."""
    for class_id, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (side, side), (2 * class_id + 1, 0, index)).save(folder / name / f"{index}.png")


@pytest.mark.parametrize(("name", "left"), [("cifar+10", 90), ("cifar+50", 50)])
@pytest.mark.parametrize("split", [0, 1])
def test_tested_classes_are_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, left: int, split: int
) -> None:
    protocol = make_protocol(name, split)
    write_images(tmp_path / "cifar100" / "train", open_source("cifar100").class_names, 2)
    with caplog.at_level(logging.WARNING):
        images = load_outliers("cifar100", protocol, tmp_path)
    assert images.dtype == torch.uint8 and images.shape == (2 * left, 3, 32, 32)
    found = set(((images[:, 0, 0, 0] - 1) // 2).tolist())
    assert found == set(range(100)) - set(open_source("cifar100").ids(protocol.unknown)) and len(found) == left
    (record,) = caplog.records
    assert f"{100 - left} classes of cifar100 are left out" in record.getMessage()
    assert all(shown in record.getMessage() for shown in protocol.unknown)
    assert "\n" not in record.getMessage()
    assert len(load_outliers("cifar100", protocol, tmp_path, limit_per_class=1)) == left


def test_the_source_of_the_known_classes_alone_leaves_the_rest() -> None:
    """CIFAR+10 knows four classes of CIFAR-10 and tests none: its other six may serve."""
    protocol = make_protocol("cifar+10")
    kept, left_out = outlier_classes("cifar10", protocol, None)
    assert {*kept, *left_out} == set(open_source("cifar10").class_names) and set(left_out) == set(protocol.label_map)
    assert outlier_classes("svhn", protocol, None) == (tuple("0123456789"), ())


@pytest.mark.parametrize(
    ("protocol", "source"),
    [("cifar10", "cifar10"), ("cifar100-closed", "cifar100"), ("digits", "mnist"), ("mnist", "svhn")],
)
def test_nothing_left_is_refused(protocol: str, source: str) -> None:
    """Digits of another source are the same classes by name."""
    with pytest.raises(UserError, match=f"every class of {source} is known or unknown in protocol {protocol}"):
        load_outliers(source, make_protocol(protocol))


def test_own_folders_serve_but_for_names_that_the_protocol_has(tmp_path: Path) -> None:
    write_images(tmp_path / "train", ["cat", "teapot", "zebra"], 2, side=40)
    for name in ("cat", "only-test"):
        (tmp_path / "test" / name).mkdir(parents=True)
    images = load_outliers("folder", make_protocol("cifar10"), tmp_path)
    assert images.shape == (4, 3, 32, 32) and sorted(images[:, 0, 0, 0].tolist()) == [3, 3, 5, 5]
    with pytest.raises(UserError, match="every class of folder"):
        load_outliers("folder", make_protocol("folder", data_dir=tmp_path), tmp_path)


def test_images_get_the_shape_of_the_protocol(tmp_path: Path) -> None:
    write_images(tmp_path / "cifar10" / "train", open_source("cifar10").class_names, 2)
    grey = load_outliers("cifar10", make_protocol("digits"), tmp_path)
    assert grey.shape == (20, 1, 32, 32)
    colour = np.array([[2 * class_id + 1, 0, index] for class_id in range(10) for index in range(2)])
    assert np.abs(grey[:, 0, 5, 5].numpy() - colour @ [0.299, 0.587, 0.114]).max() <= 0.51
    large = load_outliers("cifar10", make_protocol("tinyimagenet"), tmp_path)
    assert large.shape == (20, 3, 64, 64) and large[:, 0, 9, 9].tolist() == colour[:, 0].tolist()
    Image.new("L", (32, 32)).save(tmp_path / "cifar10" / "train" / "cat" / "grey.png")
    with pytest.raises(UserError, match=r"grey\.png has mode L"):
        load_outliers("cifar10", make_protocol("digits"), tmp_path)


def test_wrong_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown source 'imagenet': choose from digits, .*, folder or give"):
        load_outliers("imagenet", make_protocol("digits"), tmp_path)
    with pytest.raises(UserError, match="cifar10 .train. is not in"):
        load_outliers("cifar10", make_protocol("digits"), tmp_path)


def test_fingerprint_tells_outliers_apart() -> None:
    data = load_data(make_protocol("digits"), limit_per_class=4)
    outliers = torch.zeros(2, 1, 32, 32, dtype=torch.uint8)
    assert fingerprint_learned(data, None) == data.fingerprint()
    alone = fingerprint_learned(data, outliers)
    assert alone.startswith(f"{data.fingerprint()}+") and alone == fingerprint_learned(data, outliers.clone())
    outliers[1, 0, 3, 3] = 1
    assert fingerprint_learned(data, outliers) != alone


RUN: dict[str, Any] = {
    "protocol": "digits", "preset": "tiny", "limit_per_class": 20, "batch_size": 16, "device": "cpu", "threads": 1,
    "quiet": True, "objective": "confidence", "objective_config": {"source": "outliers"},
}  # fmt: skip


@pytest.fixture
def photographs(tmp_path: Path) -> str:
    write_images(tmp_path / "cifar10" / "train", open_source("cifar10").class_names, 3)
    return str(tmp_path)


def test_retraining_with_outliers(photographs: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = RetrainRequest(
        **RUN, architecture="random:0", epochs=1, outliers="cifar10", data_dir=photographs, out=str(out), bootstrap=0
    )
    run_retrain(config, ["nas-osr"])
    part = RunFolder.open(out / "split-0")
    assert {*part.read_history()[0]["losses"]} == {"ce", "kl"}
    assert part.read_config()["outliers"] == "cifar10"
    data = load_data(make_protocol("digits"), limit_per_class=20)
    outliers = load_outliers("cifar10", make_protocol("digits"), Path(photographs), 20)
    assert part.read_provenance()["data_fingerprint"] == fingerprint_learned(data, outliers)
    state = part.load_checkpoint()
    assert state is not None and not any("outliers" in name for name in state["learner"])
    before = part.read_json("metrics.json")
    (tmp_path / "cifar10").rename(tmp_path / "away")  # evaluating needs none of it
    (again,) = run_evaluate(EvaluateRequest(run=str(out), device="cpu", threads=1, bootstrap=0))
    assert again["metrics"] == before["metrics"]


def test_searching_with_outliers(photographs: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = SearchRequest(
        **RUN, layers=3, epochs=2, strategy_config={"warmup_epochs": 1}, outliers="cifar10", data_dir=photographs,
        out=str(out),
    )  # fmt: skip
    run_search(config, ["nas-osr"])
    run = RunFolder.open(out)
    assert {*run.read_history()[1]["losses"]} == {"ce", "kl", "architecture/ce", "architecture/kl"}
    assert "+" in run.read_provenance()["data_fingerprint"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "objective confidence learns from outlier images: name a source of them with --outliers"),
        ({"objective_config": {}, "outliers": "cifar10"}, "confidence takes no outlier images as it is set"),
        (
            {"objective": "cross_entropy", "objective_config": {}, "outliers": "cifar10"},
            "objective cross_entropy takes no outlier images as it is set: leave --outliers out",
        ),
        ({"outliers": "digits"}, "every class of digits is known or unknown"),
        ({"outliers": "cifar11"}, "unknown source 'cifar11'"),
        ({"outliers": "cifar10"}, "cifar10 (train) is not in"),
    ],
)
def test_bad_requests_leave_nothing(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    common = {**RUN, "data_dir": str(tmp_path), "out": str(tmp_path / "run"), **changes}
    requests: list[Any] = [
        lambda: run_retrain(RetrainRequest(**common, architecture="random:0"), ["nas-osr"]),
        lambda: run_search(SearchRequest(**common), ["nas-osr"]),
    ]
    for request in requests:
        with pytest.raises(UserError) as refused:
            request()
        assert message in str(refused.value) and "\n" not in str(refused.value)
        assert not (tmp_path / "run").exists()
