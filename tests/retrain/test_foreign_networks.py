"""Networks of timm and plain modules through retraining, weights, the model folder, and what is refused."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import nn

import nas_osr
from nas_osr.data.dataset import load_data
from nas_osr.data.protocols import make_protocol
from nas_osr.errors import UserError
from nas_osr.retrain.networks import network_class
from nas_osr.retrain.networks.starting_weights import load_weights
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.retrain.run import run_retrain

SHAPE = (1, 32, 32)
TINY: dict[str, Any] = {
    "protocol": "digits", "preset": "tiny", "limit_per_class": 40, "epochs": 1, "batch_size": 16, "device": "cpu",
    "objective": "cross_entropy", "threads": 1, "bootstrap": 0, "quiet": True,
}  # fmt: skip


class Plain(nn.Module):
    """A module that knows nothing of us."""

    def __init__(self, image_channels: int, width: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(image_channels, width, 3, 4, 1), nn.BatchNorm2d(width), nn.ReLU())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.body(images).mean((2, 3))


class Pairs(Plain):
    """One that returns two things."""

    def forward(self, images: torch.Tensor) -> Any:
        return images, images


@pytest.fixture(autouse=True)
def mine(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("mine")
    module.Plain, module.Pairs, module.Number = Plain, Pairs, int  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mine", module)


def build(name: str, shape: tuple[int, int, int] = SHAPE) -> Any:
    return network_class(name)(shape[0], (0.5,) * shape[0], (0.25,) * shape[0], shape)


@pytest.mark.parametrize("name", ["timm:test_resnet", "mine.Plain", "torch.nn.Flatten"])
def test_a_network_is_trained_and_its_model_opened_again(name: str, tmp_path: Path) -> None:
    run_retrain(RetrainRequest(**TINY, network=name, out=str(tmp_path / "run")), ["nas-osr", "retrain"])
    images = load_data(make_protocol("digits")).test().images[:50]
    model = nas_osr.load(tmp_path / "run", device="cpu")
    body = model.network.encoder.body
    expected = body((images.float() / 255 - model.model.inputs.mean[0]) / model.model.inputs.std[0])
    found = model.network(images.float() / 255).embedding
    torch.testing.assert_close(found.flatten(1)[:, : expected.shape[1]], expected, rtol=1e-4, atol=1e-4)
    assert len(model.predict(images)) == 50


@pytest.mark.parametrize("name", ["timm:test_vit", "timm:test_efficientnet"])
@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 48, 48)])
def test_timm_networks_take_channels_and_sizes(name: str, shape: tuple[int, int, int]) -> None:
    maps = build(name, shape).eval()(torch.rand(2, *shape))
    assert maps.branches[2].shape[0] == 2 and maps.branches[2].dim() == 4 and maps.intermediate == {}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_of_a_file_are_the_networks(suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of coloured images, with a classifier: the first convolution is summed, the classifier passed over and said."""
    whole = timm.create_model("test_resnet", num_classes=7)
    whole.bn1.running_mean.fill_(3.5)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save({"state_dict": {f"module.{name}": value for name, value in whole.state_dict().items()}}, path)
    else:
        safetensors.torch.save_file(whole.state_dict(), path)
    encoder = build("timm:test_resnet").eval()
    with caplog.at_level(logging.WARNING):
        load_weights(encoder, "timm:test_resnet", str(path), SHAPE)
    assert "passed over fc." in caplog.text
    whole.reset_classifier(0)
    grey = torch.rand(4, *SHAPE)
    with torch.no_grad():
        found, expected = encoder.body(grey), whole.eval()(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    state = timm.create_model("test_resnet", num_classes=0).state_dict()
    for change, message in (
        (lambda tensors: tensors.pop("bn1.weight"), "1 of the .* are missing: bn1.weight"),
        (lambda tensors: tensors.update({"bn1.weight": torch.ones(3)}), r"bn1.weight does not fit .* it is \[3\]"),
    ):
        tensors = dict(state)
        change(tensors)
        safetensors.torch.save_file(tensors, path)
        with pytest.raises(UserError, match=message):
            load_weights(build("timm:test_resnet"), "timm:test_resnet", str(path), SHAPE)


def test_the_hub_without_a_connection_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise ConnectionError("no\nroute")

    encoder = build("timm:test_resnet")
    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(UserError, match="^weights pretrained: those of timm:test_resnet cannot be had: no"):
        load_weights(encoder, "timm:test_resnet", "pretrained", SHAPE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "timm:nothing"}, "has none of this name"),
        ({"network": "mine.Number"}, "has no class Number derived from Module"),
        ({"network": "mine.Pairs"}, "network mine.Pairs gives a tuple for images .2, 1, 32, 32.: it turns"),
        ({"network": "resnet18", "weights": "pretrained"}, "those of timm:NAME"),
        ({"network": "timm:test_resnet", "weights": "nowhere.pt"}, "no such file of weights"),
        ({"network": "resnet18", "weights": "a.pt", "init": "run"}, "weights and init are both given"),
        ({"weights": "nowhere.pt"}, "weights are those of a --network"),
        ({"network": "timm:test_resnet", "objective": "crosr"}, "no intermediate maps"),
    ],
)
def test_mistakes_are_a_line(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        run_retrain(RetrainRequest(**{**TINY, **options, "out": str(tmp_path / "run")}), ["nas-osr", "retrain"])
    assert not (tmp_path / "run").exists()
