"""The switches of an encoder: what torch.compile computes, that checkpoints fit, what is said without a compiler."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from nas_osr.errors import UserError
from nas_osr.objectives import make_objective
from nas_osr.objectives.cross_entropy import CrossEntropyConfig
from nas_osr.objectives.parts.freezing import frozen
from nas_osr.search_spaces.blocks import check_compiler, prepare_encoder
from nas_osr.search_spaces.encoder import feature_shapes
from nas_osr.search_spaces.space import Space
from nas_osr.search_spaces.supernet import Supernet, build_supernet
from nas_osr.training.learner import Learner

SHAPE = (1, 32, 32)
IMAGES = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(1))


def build() -> Learner:
    torch.manual_seed(0)
    encoder = build_supernet(Space(layers=3, channels=16, operations=("skip", "conv2")), 1, (0.5,), (0.2,))
    shapes = feature_shapes(encoder, SHAPE)
    return Learner(encoder, make_objective("cross_entropy", shapes, SHAPE, 3, CrossEntropyConfig()))


def step(learner: Learner, freeze: bool) -> dict[str, Tensor]:
    """The loss and every gradient of a weight step, or of an architecture step."""
    encoder: Any = learner.encoder
    assert isinstance(encoder, Supernet)
    learner.zero_grad()
    labels = torch.tensor([0, 1, 2, 0])
    if freeze:
        with frozen(learner, [*encoder.weight_parameters(), *learner.objective.parameters()]):
            loss = learner(IMAGES, labels)["ce"]
            loss.backward()
    else:
        loss = learner(IMAGES, labels)["ce"]
        loss.backward()
    gradients = {name: p.grad.clone() for name, p in learner.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **gradients}


@pytest.mark.slow
def test_a_compiled_supernet_is_the_same_one() -> None:
    try:
        check_compiler(torch.device("cpu"))
    except UserError as error:
        pytest.skip(str(error))
    plain, compiled = build(), build()
    prepare_encoder(compiled.encoder, checkpointing=False, compiled=True)
    for freeze in (False, True):
        expected, found = step(plain, freeze), step(compiled, freeze)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(
                found[name], value, rtol=1e-3, atol=1e-5 * max(1.0, float(value.abs().max())), msg=name
            )
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], value, rtol=1e-4, atol=1e-5, msg=name)
    plain.load_state_dict(compiled.state_dict())
    # inference runs as it is, on any number of images
    plain.eval()
    compiled.eval()
    for count in (1, 3):
        with torch.inference_mode():
            logits, expected_logits = compiled.infer(IMAGES[:count]).logits, plain.infer(IMAGES[:count]).logits
        assert logits is not None and expected_logits is not None and torch.equal(logits, expected_logits)


def test_inference_does_not_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = build().eval()
    with torch.inference_mode():
        expected = compiled.infer(IMAGES).logits
    prepare_encoder(compiled.encoder, checkpointing=False, compiled=True)

    def fail(*args: Any) -> Any:
        raise AssertionError("inference was compiled")

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", fail)
    with torch.inference_mode():
        logits = compiled.infer(IMAGES).logits
    assert logits is not None and expected is not None and torch.equal(logits, expected)


def test_a_machine_without_a_compiler_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(function: Any) -> Any:
        raise RuntimeError("No working C++ compiler found\nmore")

    monkeypatch.setattr(torch, "compile", fail)
    with pytest.raises(UserError) as caught:
        check_compiler(torch.device("cpu"))
    assert str(caught.value) == (
        "compile: torch.compile does not work on cpu here (No working C++ compiler found): leave it out"
    )
