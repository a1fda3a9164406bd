"""The plain network, and settings in a network's name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from nas_osr.cli.main import main
from nas_osr.errors import UserError
from nas_osr.retrain.model_reading import open_model
from nas_osr.retrain.networks import network_class
from nas_osr.search_spaces.encoder import feature_shapes


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return network_class(name)(3, (0.5,) * 3, (0.2,) * 3, (3, 32, 32)).eval()


def count(name: str) -> int:
    return sum(parameter.numel() for parameter in build(name).parameters())


def test_settings_change_the_layers() -> None:
    assert count("plain") == count("plain:") == count("plain:width=48,residual=true") == count("plain:pooling=maximum")
    whitened, one = count("plain:width=8"), count("plain:width=8,residual=false")
    assert whitened - one == sum(9 * width * width + 2 * width for width in (16, 32, 32))
    stem = 9 * 3 * 8 + 2 * 8 - 24  # less the whitening's bias
    assert count("plain:width=8,whitening=false") - whitened == stem - 9 * 16 * (24 - 8)


def test_the_network_pools_where_it_is_told_to() -> None:
    encoder, images = build("plain:width=4,pooling=maximum"), torch.rand(2, 3, 32, 32)
    features = encoder(images)
    assert torch.equal(features.pooled, features.branches[2].amax((2, 3))) and features.branches[2].shape[1:] == (
        16,
        4,
        4,
    )
    assert feature_shapes(encoder, (3, 32, 32)).pools and not feature_shapes(build("plain"), (3, 32, 32)).pools


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("plain:depth=3", "network plain has no setting 'depth'"),
        ("plain:width", "plain:setting=value"),
        ("plain:width=0", "width must"),
        ("plain:pooling=median", "pooling"),
        ("resnet18:width=3", "network resnet18 has no settings"),
        ("torch.nn.Identity:a=1", "network torch.nn.Identity has no settings"),
    ],
)
def test_a_wrong_setting_is_one_line(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        network_class(name)


def test_a_run_keeps_the_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the command line to the model folder, and evaluated again to the same bytes."""
    name, out = "plain:width=4,pooling=maximum", tmp_path / "run"
    command = ["retrain", "--protocol", "digits", "--network", name, "--recipe", "strong", "--objective"]
    options = ["--epochs", "1", "--limit_per_class", "12", "--batch_size", "32", "--preset", "tiny", "--bootstrap", "0"]
    assert main([*command, "cross_entropy", *options, "--device", "cpu", "--out", str(out)]) == 0
    model = open_model(out)
    assert model.network == name and model.learner.encoder.config.width == 4
    metrics = (out / "split-0" / "metrics.json").read_bytes()
    assert main(["evaluate", str(out), "--device", "cpu", "--bootstrap", "0"]) == 0
    assert (out / "split-0" / "metrics.json").read_bytes() == metrics
    capsys.readouterr()
    assert main([*command, "cross_entropy", "--network", "plain:width=x", "--out", str(tmp_path / "no")]) == 2
    assert "width must be a whole number" in capsys.readouterr().err
