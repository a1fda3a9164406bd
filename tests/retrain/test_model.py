"""The model folder: the network that was trained, opened without anything else; and what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from nas_osr.data.dataset import LabelledImages, load_data
from nas_osr.data.protocols import make_protocol
from nas_osr.errors import UserError
from nas_osr.evaluation.judging import collect_outputs, judge
from nas_osr.evaluation.predictions import read_predictions
from nas_osr.objectives import OBJECTIVES
from nas_osr.retrain.model import find_model
from nas_osr.retrain.model_reading import open_model
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.retrain.run import run_retrain

TINY: dict[str, Any] = {
    "architecture": "random:0", "protocol": "digits", "preset": "tiny", "channels": 16, "limit_per_class": 10,
    "epochs": 1, "batch_size": 16, "device": "cpu", "threads": 1, "bootstrap": 0, "quiet": True,
}  # fmt: skip


def retrain(out: Path, **options: Any) -> Path:
    run_retrain(RetrainRequest(**{**TINY, **options}, out=str(out)), ["nas-osr", "retrain"])
    return out / "split-0"


@pytest.fixture(scope="module")
def digits() -> LabelledImages:
    return load_data(make_protocol("digits"), limit_per_class=10).test()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return retrain(tmp_path_factory.mktemp("model") / "run", objective="gmvae")


@pytest.mark.parametrize(
    ("objective", "rule"),
    [*((name, None) for name in OBJECTIVES), ("cross_entropy", "openmax"), ("gmvae", "nc_uncertainty")],
)
def test_a_model_alone_says_what_its_run_said(
    objective: str, rule: str | None, tmp_path: Path, digits: LabelledImages
) -> None:
    part = retrain(tmp_path / "run", objective=objective, rule=rule)
    alone = Path(shutil.copytree(part / "model", tmp_path / "elsewhere"))
    written = read_predictions(part / "predictions.csv")
    shutil.rmtree(tmp_path / "run")
    random_state = torch.get_rng_state()
    model = open_model(alone)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert sorted(path.name for path in alone.iterdir()) == ["model.json", "model.safetensors"]
    found = judge(model.rule, collect_outputs(model.learner.infer, digits))
    assert np.array_equal(found.knownness, written.knownness)
    assert np.array_equal(found.predicted_label, written.predicted_label)
    assert np.array_equal(found.class_scores, written.class_scores)
    assert model.about["metrics"] == written.metrics()


def test_a_model_is_found_by_its_run(finished: Path, tmp_path: Path) -> None:
    for path in (finished / "model", finished, finished.parent, str(finished)):
        assert find_model(path) == finished / "model"
    for name in ("split-0", "split-1"):
        shutil.copytree(finished, tmp_path / "run" / name)
    with pytest.raises(UserError, match="has 2 models: name one, such as .*split-0/model"):
        find_model(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "split-1" / "model")
    with pytest.raises(UserError, match="export RUN --format safetensors"):
        find_model(tmp_path / "run" / "split-1")
    with pytest.raises(UserError, match="no such model folder"):
        find_model(tmp_path / "nowhere")


def test_equal_runs_leave_equal_models_and_nothing_of_an_older_one_stays(finished: Path, tmp_path: Path) -> None:
    part = retrain(tmp_path / "run", objective="cross_entropy")
    (part / "model" / ".model.json.1234.tmp").write_text("half of it")
    (part / "model" / "model.onnx").write_text("of the older model")
    retrain(tmp_path / "run", objective="gmvae", overwrite=True)
    assert sorted(path.name for path in (part / "model").iterdir()) == ["model.json", "model.safetensors"]
    for name in ("model.json", "model.safetensors"):
        assert (part / "model" / name).read_bytes() == (finished / "model" / name).read_bytes()


Change = Callable[[dict[str, Any]], object]
WRONG_JSON: dict[str, tuple[Change, str]] = {
    "program": (lambda value: value.update(program="other"), "not the description of a model"),
    "schema": (lambda value: value.update(schema=2), "schema 2, read is 1: update nas-osr"),
    "field missing": (lambda value: value.pop("classes"), "field classes is missing"),
    "field too many": (lambda value: value.update(more=1), "unknown field 'more'"),
    "two networks": (lambda value: value.update(network="resnet18"), "either network or architecture"),
    "class twice": (lambda value: value.update(classes=["a", "a"]), "different names"),
    "other number of classes": (lambda value: value["classes"].pop(), "not fit"),
    "image side": (lambda value: value.update(image_shape=[1, 32, 33]), "multiples of 16"),
    "huge image": (lambda value: value.update(image_shape=[1, 32, 1 << 20]), "expected channels"),
    "channels": (lambda value: value.update(image_shape=[2, 32, 32]), "expected channels"),
    "std": (lambda value: value.update(std=[0]), "std above 0"),
    "threshold": (lambda value: value["rule"]["state"].update(threshold=None), "threshold: expected a finite number"),
    "infinite": (lambda value: value["rule"]["state"].update(threshold=1e999), "Infinity is not a number"),
    "state missing": (lambda value: value["rule"]["state"].pop("tau"), "the state of rule nc_distance must be"),
    "count": (lambda value: value["rule"]["state"].update(num_known=1 << 40), "too large"),
    "other count": (lambda value: value["rule"]["state"].update(num_known=3), "not fit"),
    "class thresholds": (lambda value: value.update(class_thresholds=[1.0]), "1 numbers for 6 classes"),
    "plug-in": (lambda value: value["rule"].update(name="my.Rule"), "not loaded: add --plugin my"),
    "plug-in network": (
        lambda value: value.update(network="my.Network", architecture=None), "not loaded: add --plugin my",
    ),
    "objective": (lambda value: value["objective"].update(name="cac"), "objective"),
    "setting": (lambda value: value["objective"]["settings"].update(more=1), "has no setting 'more'"),
    "huge network": (lambda value: value["objective"]["settings"].update(latent_dim=1 << 40), "does not fit|built"),
    "wide network": (lambda value: value["architecture"]["space"].update(channels=1024), "does not fit"),
    "checksum": (lambda value: value.update(weights_sha256="0"), "not the file that model.json belongs to"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_JSON)
def test_a_wrong_description_is_one_line(name: str, finished: Path, tmp_path: Path) -> None:
    change, message = WRONG_JSON[name]
    folder = Path(shutil.copytree(finished / "model", tmp_path / "model"))
    value = json.loads((folder / "model.json").read_text())
    change(value)
    (folder / "model.json").write_text(json.dumps(value))
    with pytest.raises(UserError, match=message) as caught:
        open_model(folder)
    assert str(folder) in str(caught.value)


def wrong_tensors(name: str, value: Any) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda tensors: {key: tensor for key, tensor in {**tensors, name: value}.items() if tensor is not None}


WRONG_TENSORS = {
    "missing": (wrong_tensors("learner.encoder.stem.0.weight", None), "not fit"),
    "strange": (wrong_tensors("other.weight", torch.zeros(1)), "'other.weight' does not fit"),
    "too many": (wrong_tensors("learner.more", torch.zeros(1)), "not fit"),
    "shape": (wrong_tensors("rule.centroids", torch.zeros(3, 2)), "not fit"),
    "not a number": (wrong_tensors("rule.centroids", torch.full((6, 32), torch.nan)), "not fit"),
    "class that is not there": (wrong_tensors("rule.classes", torch.full((6,), 7)), "not fit"),
}


@pytest.mark.parametrize("name", WRONG_TENSORS)
def test_wrong_tensors_are_one_line(name: str, finished: Path, tmp_path: Path) -> None:
    change, message = WRONG_TENSORS[name]
    folder = Path(shutil.copytree(finished / "model", tmp_path / "model"))
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    if name == "missing":
        assert tensors.pop(sorted(tensors)[0]) is not None
    content = safetensors.torch.save(change(tensors))
    (folder / "model.safetensors").write_bytes(content)
    value = json.loads((folder / "model.json").read_text())
    value["weights_sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "model.json").write_text(json.dumps(value))
    with pytest.raises(UserError, match=message):
        open_model(folder)


@pytest.mark.parametrize("cut", [0, 4, 100, -1])
def test_a_file_cut_short_is_one_line(cut: int, finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished / "model", tmp_path / "model"))
    content = (folder / "model.safetensors").read_bytes()[:cut]
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="damaged, or not the file"):
        open_model(folder)
    value = json.loads((folder / "model.json").read_text())
    value["weights_sha256"] = hashlib.sha256(content).hexdigest()  # by someone who means it
    (folder / "model.json").write_text(json.dumps(value))
    with pytest.raises(UserError, match="not a file of safetensors"):
        open_model(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors: missing"):
        open_model(folder)
