"""The whitening stem: what its filters do, and that a training prepares, keeps and takes them over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nas_osr.retrain.model_reading import open_model
from nas_osr.retrain.networks import network_class
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.retrain.run import run_retrain
from nas_osr.search_spaces.stems.whitened import SMALLEST, WhitenedStem, Whitening, whitening_filters
from nas_osr.training.prepared import prepare_layers

TINY: dict[str, Any] = {
    "protocol": "digits", "preset": "tiny", "limit_per_class": 12, "epochs": 1, "batch_size": 32, "device": "cpu",
    "threads": 1, "bootstrap": 0, "quiet": True, "objective": "cross_entropy", "recipe": "strong",
}  # fmt: skip


def smooth_images(count: int, seed: int = 0) -> Tensor:
    """uint8 [count, 3, 16, 16] whose neighbouring pixels and channels are alike, as a photograph's are."""
    noise = torch.rand(count, 3, 20, 20, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.avg_pool2d(noise, 5, stride=1) + 0.5 * noise.mean(1, keepdim=True)[:, :, 2:18, 2:18]
    return (smooth.clamp(0, 1) * 255).to(torch.uint8)


def test_filters_whiten_patches() -> None:
    """The second moment of what they make of the patches that they were made of is the identity, nearly."""
    images = smooth_images(200).float().div(255).sub(0.4).div(0.2)
    filters = whitening_filters(iter(images.split(50)))
    assert filters.shape == (24, 3, 2, 2) and torch.equal(filters[:12], -filters[12:])
    found = torch.nn.functional.conv2d(images.double(), filters[:12].double()).transpose(0, 1).flatten(1)
    moment = found @ found.T / found.shape[1]
    patches = images.double().unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 12)
    values = torch.linalg.eigvalsh(patches.T @ patches / len(patches)).flip(0)
    torch.testing.assert_close(moment, torch.diag(values / (values + SMALLEST)), rtol=1e-3, atol=1e-3)


def test_a_layer_looks_once_at_normalised_images() -> None:
    images = smooth_images(60)
    encoder = network_class("plain:width=4,whitening=true")(3, (0.4,) * 3, (0.2,) * 3, (3, 16, 16))
    layer = encoder.stem[0]
    assert isinstance(layer, Whitening) and not layer.is_prepared
    prepare_layers(encoder, images)
    expected = whitening_filters(iter([images.float().div(255).sub(0.4).div(0.2)]))
    torch.testing.assert_close(layer.filters, expected, rtol=1e-3, atol=1e-3)
    before = layer.filters.clone()
    prepare_layers(encoder, smooth_images(60, seed=1))
    assert torch.equal(layer.filters, before)
    assert "stem.0.filters" in encoder.state_dict() and "stem.0.filters" not in dict(encoder.named_parameters())


def test_the_stem_gives_the_maps_that_cells_start_from() -> None:
    half, quarter = WhitenedStem(3, 8)(torch.rand(2, 3, 32, 48))
    assert half.shape == (2, 4, 16, 24) and quarter.shape == (2, 8, 8, 12)


@pytest.mark.parametrize("asked", [{"architecture": "random:0", "channels": 8, "stem": "whitened"},
                                   {"network": "plain:width=4,whitening=true"}])  # fmt: skip
def test_a_training_prepares_its_filters_and_a_further_one_keeps_them(asked: dict[str, Any], tmp_path: Path) -> None:
    run_retrain(RetrainRequest(**TINY, **asked, out=str(tmp_path / "first")), ["nas-osr"])
    again = {**TINY, **asked, "seeds": "1", "init": str(tmp_path / "first")}
    run_retrain(RetrainRequest(**again, out=str(tmp_path / "second")), ["nas-osr"])
    first, second = (
        next(layer for layer in open_model(tmp_path / name).learner.modules() if isinstance(layer, Whitening))
        for name in ("first", "second")
    )
    assert first.is_prepared and torch.equal(first.filters, second.filters)
    assert not torch.equal(first.bias, second.bias) and first.bias.abs().sum() > 0
