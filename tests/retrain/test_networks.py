"""The baseline networks: their sizes from the papers, their maps, every objective on them, and whole runs on digits."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.models
from torch import nn
from torchvision.models.vgg import cfgs, make_layers

from nas_osr.cli.main import main
from nas_osr.cost.estimate import count_macs
from nas_osr.data.protocols import Protocol, make_protocol
from nas_osr.errors import UserError
from nas_osr.objectives import OBJECTIVES, objective_class
from nas_osr.plans import ObjectivePlan, plan_objective
from nas_osr.retrain.build import build_learner
from nas_osr.retrain.evaluate import run_evaluate
from nas_osr.retrain.networks import NETWORKS, check_network, network_class
from nas_osr.retrain.retrain_request import EvaluateRequest, RetrainRequest
from nas_osr.retrain.run import run_retrain
from nas_osr.runs.run_folder import RunFolder
from nas_osr.search_spaces.architectures.references import published
from nas_osr.search_spaces.encoder import feature_shapes
from nas_osr.search_spaces.network import DiscreteNetwork

ROOT = Path(__file__).resolve().parents[2]
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
TINY: dict[str, Any] = {
    "protocol": "digits", "preset": "tiny", "limit_per_class": 10, "epochs": 1, "batch_size": 32, "device": "cpu",
    "threads": 1, "bootstrap": 0, "quiet": True,
}  # fmt: skip
COMMAND = ["nas-osr", "retrain"]


def build(name: str, channels: int = 3, side: int = 32) -> nn.Module:
    torch.manual_seed(0)
    return network_class(name)(channels, MEAN[:channels], STD[:channels], (channels, side, side))


def plan_retrained(protocol: Protocol, objective: str, settings: dict[str, Any]) -> ObjectivePlan:
    return plan_objective(RetrainRequest(objective=objective, objective_config=settings), protocol, "retrain")


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def conv(before: int, after: int, bias: bool = False) -> int:
    """Weights of a 3x3 convolution with its BatchNorm."""
    return 9 * before * after + 2 * after + bias * after


# published sizes: 11,173,962 (ResNet-18 for CIFAR) and torchvision's own, less their classifiers
PARAMETERS = {
    "cac": conv(3, 64) + conv(64, 64) + conv(64, 128) + 6 * conv(128, 128),
    "resnet18": 11_173_962 - 513 * 10,
    "resnet34": 21_797_672 - 513 * 1000 - 64 * 3 * (49 - 9),
    "resnet50": 25_557_032 - 2049 * 1000 - 64 * 3 * (49 - 9),
    "plain": 24 + conv(24, 96) + 2 * conv(96, 96) + conv(96, 192) + 5 * conv(192, 192),  # 24 biases
    "vgg13": 133_053_736 - 25089 * 4096 - 4097 * 4096 - 4097 * 1000,
    "dhrnet": conv(3, 64) + conv(64, 64) + conv(64, 128) + conv(128, 128) + conv(128, 256) + 2 * conv(256, 256)
    + 2 * 4097 * 4096,
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_sizes_are_the_papers(name: str) -> None:
    assert count_parameters(build(name)) == PARAMETERS[name]


@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize(
    ("name", "branch"),
    [
        ("cac", 128 * 16),
        ("resnet18", 512),
        ("resnet34", 512),
        ("resnet50", 2048),
        ("vgg13", 512),
        ("dhrnet", 4096),
        ("plain", 192),
    ],
)
def test_maps(name: str, branch: int, side: int) -> None:
    network = build(name, 1, side)
    shapes = feature_shapes(network, (1, side, side))
    assert set(shapes.branches) == {2} and set(shapes.intermediate) == {-1, 0, 1}
    for scale, shape in shapes.intermediate.items():
        assert shape[1:] == (side >> (scale + 2),) * 2
    flattened = (side // 32) ** 2 if name == "cac" else 1
    assert shapes.branches[2][0] == branch * flattened


def test_networks_normalise_first() -> None:
    for name in ("cac", "resnet18", "vgg13", "plain"):
        encoder = build(name).eval()
        other = network_class(name)(3, (0.0,) * 3, (1.0,) * 3, (3, 32, 32)).eval()
        other.load_state_dict(encoder.state_dict())
        images = torch.rand(2, 3, 32, 32)
        normalised = (images - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
        torch.testing.assert_close(encoder(images).branches[2], other(normalised).branches[2], rtol=1e-4, atol=1e-5)


def test_cac_flattens_its_last_map() -> None:
    features = build("cac").eval()(torch.rand(2, 3, 32, 32))
    assert features.branches[2].shape == (2, 2048, 1, 1)
    assert torch.equal(features.branches[2].view(2, 128, 4, 4), features.intermediate[1])


@pytest.mark.parametrize(("side", "share"), [(32, 0.2), (64, 0.3)])
def test_cac_drops_whole_channels(side: int, share: float) -> None:
    network = build("cac", 3, side).train()
    half = network(torch.rand(16, 3, side, side)).intermediate[-1]
    dropped = (half == 0).flatten(2).all(2).double().mean().item()
    assert dropped == pytest.approx(share, abs=0.04)


def test_resnet_is_torchvisions_but_for_the_stem() -> None:
    network = build("resnet18").eval()
    reference = torchvision.models.resnet18(weights=None).eval()
    reference.conv1, reference.maxpool, reference.fc = network.stem[0], nn.Identity(), nn.Identity()
    names = {"to_half": "layer2", "to_quarter": "layer3", "to_eighth": "layer4", "stem.1": "bn1", "stem.3": "layer1"}
    state = {}
    for key, value in network.state_dict().items():
        for start, name in names.items():
            if key.startswith(f"{start}."):
                state[name + key.removeprefix(start)] = value
    missing = reference.load_state_dict(state, strict=False)
    assert missing.missing_keys == ["conv1.weight"] and not missing.unexpected_keys
    images = torch.rand(2, 3, 32, 32)
    expected = reference(network.normalise(images))
    torch.testing.assert_close(network(images).branches[2].mean((2, 3)), expected, rtol=1e-4, atol=1e-5)


def test_vgg_is_torchvisions() -> None:
    network = build("vgg13").eval()
    reference = make_layers(cfgs["B"], batch_norm=True).eval()
    values = [value for key, value in network.state_dict().items() if not key.startswith("normalise")]
    reference.load_state_dict(dict(zip(reference.state_dict(), values, strict=True)))
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(network(images).branches[2], reference(network.normalise(images)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", ["cac", "vgg13"])
def test_every_objective_builds_on_a_network(name: str, objective: str) -> None:
    """With a VAE's decoder at its narrowest, where it has one."""
    protocol = make_protocol("digits", 0)
    narrow = {"decoder_channels": 16} if objective in ("vae_contrastive", "gmvae") else {}
    learner = build_learner(name, protocol, plan_retrained(protocol, objective, narrow)).eval()
    with torch.no_grad():
        outputs = learner.infer(torch.rand(3, *protocol.image_shape))
    assert outputs.available() == set(objective_class(objective).provides) and len(outputs) == 3


@pytest.mark.parametrize("name", ["cac", "resnet18", "vgg13"])
def test_the_vae_decoder_can_see_a_networks_maps(name: str) -> None:
    protocol = make_protocol("digits", 0)
    settings = {"decoder_channels": 16, "decoder_features": True}
    learner = build_learner(name, protocol, plan_retrained(protocol, "vae_contrastive", settings))
    terms = learner(torch.rand(4, *protocol.image_shape), torch.tensor([0, 1, 2, 3]))
    assert all(torch.isfinite(value) for value in terms.values())


def test_macs_by_hand_and_without_a_trace() -> None:
    protocol = make_protocol("digits", 0)
    learner = build_learner("cac", protocol, plan_retrained(protocol, "cac", {}))
    learner.train()
    before = {key: value.clone() for key, value in learner.state_dict().items()}
    generator = torch.random.get_rng_state()
    widths = [(1, 64, 32), (64, 64, 32), (64, 128, 16), (128, 128, 16), (128, 128, 16), (128, 128, 8)]
    widths += [(128, 128, 8), (128, 128, 8), (128, 128, 4)]
    expected = sum(9 * a * b * side * side for a, b, side in widths) + 2048 * protocol.num_known
    assert count_macs(learner, protocol.image_shape) == expected
    assert learner.training and torch.equal(generator, torch.random.get_rng_state())
    assert all(torch.equal(value, before[key]) for key, value in learner.state_dict().items())


def test_macs_of_a_discrete_network_against_its_layers() -> None:
    """The published network's parameters and multiply-accumulates without a decoder, counted layer by layer."""
    encoder = DiscreteNetwork(published(), 3, MEAN, STD)
    total = 0

    def add(module: nn.Module, _: Any, output: torch.Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d)
        total += output[0].numel() * module.weight[0].numel()

    class Inferring(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def infer(self, images: torch.Tensor) -> Any:
            return self.encoder(images)

    learner = Inferring()
    counted = count_macs(learner, (3, 32, 32))
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(add)
    with torch.no_grad():
        learner.infer(torch.zeros(1, 3, 32, 32))
    assert counted == total > 1e8


CAC_PAPER, VGG = ("cac", "cac", "cac"), ("vgg13", "cross_entropy", "fast")  # network, objective, recipe


@pytest.fixture(scope="module", params=[CAC_PAPER, VGG])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RetrainRequest]:
    """One split, retrained."""
    network, objective, recipe = request.param
    out = tmp_path_factory.mktemp(network) / "run"
    config = RetrainRequest(**TINY, network=network, objective=objective, recipe=recipe, out=str(out))
    run_retrain(config, COMMAND)
    return out, config


def test_evaluate_reopens_a_network_from_its_name(finished: tuple[Path, RetrainRequest]) -> None:
    out, config = finished
    part = out / "split-0"
    assert not (part / "architecture.json").exists()
    values = RunFolder.open(part).read_config()
    assert values["network"] == config.network and values["architecture"] is None and values["channels"] == 0
    files = [part / name for name in ("metrics.json", "predictions.csv")]
    before = [file.read_bytes() for file in files]
    (result,) = run_evaluate(EvaluateRequest(run=str(out), device="cpu", threads=1, bootstrap=0))
    assert [file.read_bytes() for file in files] == before
    assert result["network"] == config.network
    state = torch.load(part / "checkpoint.pt", weights_only=True)["learner"]
    assert result["parameters"] == sum(
        value.numel() for key, value in state.items() if key.rsplit(".", 1)[1] in ("weight", "bias")
    )
    assert result["macs"] > 1e8


@pytest.mark.parametrize("finished", [CAC_PAPER], indirect=True)
def test_config_alone_repeats_a_network_run(finished: tuple[Path, RetrainRequest], tmp_path: Path) -> None:
    out, _ = finished
    config = RunFolder.open(out / "split-0").read_config()
    run_retrain(RetrainRequest(**config, out=str(tmp_path / "again"), quiet=True), COMMAND)
    for name in ("history.jsonl", "metrics.json", "predictions.csv", "config.yaml"):
        assert (tmp_path / "again" / "split-0" / name).read_bytes() == (out / "split-0" / name).read_bytes(), name


@pytest.mark.parametrize("finished", [CAC_PAPER], indirect=True)
def test_a_network_run_has_nothing_to_export(
    finished: tuple[Path, RetrainRequest], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, config = finished
    for folder in (out, out / "split-0"):
        assert main(["export", str(folder), "--out", str(tmp_path / "export")]) == 2
        message = capsys.readouterr().err.strip()
        assert f"a retraining of network '{config.network}', which has no architecture" in message
        assert "\n" not in message and not (tmp_path / "export").exists()


def test_an_architecture_run_says_that_it_has_no_network(tmp_path: Path) -> None:
    config = RetrainRequest(**TINY, architecture="random:0", channels=16, objective="cross_entropy", out=str(tmp_path))
    run_retrain(config, COMMAND)
    result = json.loads((tmp_path / "split-0" / "metrics.json").read_text())
    assert result["network"] is None and result["macs"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--network", "resnet19"], "unknown network 'resnet19': choose from cac, dhrnet, plain, resnet18"),
        (["random:0", "--network", "cac"], "architecture and network are both given"),
        (["--network", "cac", "--channels", "32"], "channels is the width of an architecture"),
        (["--network", "cac", "--stem", "pooled"], "stem is a part of an architecture"),
    ],
)
def test_wrong_networks_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    out = tmp_path / "run"
    assert main(["retrain", *arguments, "--protocol", "digits", "--preset", "tiny", "--out", str(out)]) == 2
    printed = capsys.readouterr().err.strip()
    assert message in printed and "\n" not in printed and not out.exists()


def test_images_too_small_for_vgg_are_refused() -> None:
    with pytest.raises(UserError, match="network vgg13 needs images of at least 32 pixels a side, got 16x16"):
        check_network("vgg13", (3, 16, 16))
    check_network("resnet18", (3, 16, 16))


def test_a_users_own_network_by_its_dotted_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "how-to" / "own-network.md").read_text()
    [code] = re.findall(r"```python\n((?:(?!```).)*class Small\(Network\).*?)```", page, flags=re.DOTALL)
    (tmp_path / "my_networks.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    out = str(tmp_path / "run")
    config = RetrainRequest(**TINY, network="my_networks.Small", objective="cross_entropy", out=out)
    run_retrain(config, COMMAND)
    monkeypatch.delitem(sys.modules, "my_networks")
    evaluate = ["evaluate", out, "--bootstrap", "0", "--device", "cpu"]
    assert main(evaluate) == 2
    assert (
        "network 'my_networks.Small' is a plug-in that is not loaded: add --plugin my_networks"
        in capsys.readouterr().err
    )
    assert main([*evaluate, "--plugin", "my_networks"]) == 0
    monkeypatch.delitem(sys.modules, "my_networks")


def test_the_convolutions_of_cac_start_with_as_much_variance_as_they_send_back() -> None:
    """Kaiming's normal initialisation by the fan-out: variance 2 / (9 * output channels)."""
    torch.manual_seed(0)
    for module in build("cac").modules():
        if isinstance(module, nn.Conv2d) and module.in_channels > 3:
            variance = float(module.weight.detach().var())
            assert variance == pytest.approx(2 / (9 * module.out_channels), rel=0.05)
