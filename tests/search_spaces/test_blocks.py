"""Checkpointing: the same values, gradients and running statistics as without it, from fewer kept bytes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nas_osr.errors import UserError
from nas_osr.objectives.parts.freezing import frozen, unrecorded
from nas_osr.retrain.networks import network_class
from nas_osr.retrain.retrain_plan import plan_retrain
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.search_spaces.architectures.sampling import sample_architecture
from nas_osr.search_spaces.blocks import prepare_encoder
from nas_osr.search_spaces.network import DiscreteNetwork
from nas_osr.search_spaces.space import Space
from nas_osr.search_spaces.supernet import Supernet, build_supernet
from nas_osr.strategies.search_plan import plan_search
from nas_osr.strategies.search_request import SearchRequest

MEAN, STD = (0.5,) * 3, (0.2,) * 3
IMAGES = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))
KINDS = ("supernet", "network", "cac", "dhrnet", "resnet18", "vgg13")


def build(kind: str) -> nn.Module:
    torch.manual_seed(0)
    space = Space(layers=4, channels=16)
    if kind == "supernet":
        return build_supernet(space, 3, MEAN, STD)
    if kind == "network":
        return DiscreteNetwork(sample_architecture(space, 1), 3, MEAN, STD)
    return network_class(kind)(3, MEAN, STD, (3, 32, 32))


def step(network: nn.Module, mode: str = "train") -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor], int]:
    """The last map, gradients and state after one pass each way, and the bytes kept between the two beside the weights.

    `frozen`: no weights learn, nothing is recorded. `thawed`: as `frozen`, but only around the forward pass.
    """
    kept: dict[int, int] = {}
    weighty = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weighty:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    torch.manual_seed(2)
    architecture = network.architecture_parameters if isinstance(network, Supernet) else {}
    weights = [p for p in network.parameters() if all(p is not other for other in architecture.values())]
    images = IMAGES.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        if mode == "thawed":
            with frozen(network, weights):
                last = network(images).branches[2]
        elif mode == "unrecorded":
            with unrecorded(network):
                last = network(images).branches[2]
        else:
            last = network(images).branches[2]
        size = sum(kept.values())
    (last * torch.randn_like(last)).sum().backward()
    assert images.grad is not None
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return last.detach(), {"images": images.grad, **gradients}, network.state_dict(), size


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpointed_step_is_the_same_step(kind: str) -> None:
    plain, lean = build(kind), build(kind)
    prepare_encoder(lean, checkpointing=True, compiled=False)
    (last, gradients, state, size), (other, others, after, less) = step(plain), step(lean)
    assert torch.equal(other, last)
    assert others.keys() == gradients.keys() and after.keys() == state.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-5, atol=1e-6 * float(gradient.abs().max()), msg=name)
    for name, value in state.items():
        assert torch.equal(after[name], value), name
    assert less < 0.6 * size


@pytest.mark.parametrize("mode", ["frozen", "thawed", "unrecorded"])
def test_freezing_holds_for_the_second_pass_too(mode: str) -> None:
    """An architecture step freezes both passes; the generator of a GAN and outliers only the first."""
    results = []
    for checkpointing in (False, True):
        network = build("supernet")
        if checkpointing:
            prepare_encoder(network, checkpointing=True, compiled=False)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        if mode == "frozen":
            assert isinstance(network, Supernet)
            with frozen(network, network.weight_parameters()):
                result = step(network)
        else:
            result = step(network, mode)
        assert all(torch.equal(value, before[name]) for name, value in result[2].items())
        assert all(parameter.requires_grad for parameter in network.parameters())
        results.append(result)
    (last, gradients, *_), (other, others, *_) = results
    assert torch.equal(other, last) and others.keys() == gradients.keys()
    assert ("network.stem.to_half.second.0.weight" in gradients) == (mode == "unrecorded")
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-5, atol=1e-6 * float(gradient.abs().max()), msg=name)


def test_inference_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build("network").eval()
    with torch.inference_mode():
        expected = network(IMAGES).branches[2]
        prepare_encoder(network, checkpointing=True, compiled=False)
        monkeypatch.setattr("nas_osr.search_spaces.blocks.checkpoint", None)
        assert torch.equal(network(IMAGES).branches[2], expected)


def test_both_switches_at_once_are_refused() -> None:
    both = {"protocol": "digits", "checkpointing": True, "compile": True}
    with pytest.raises(UserError, match="checkpointing and compile exclude each other"):
        plan_search(SearchRequest(**both))
    with pytest.raises(UserError, match="checkpointing and compile exclude each other"):
        plan_retrain(RetrainRequest(**both))
