"""Captured steps train as plain ones do, bit for bit: here by a stand-in without Python, on a GPU as CUDA graphs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

from nas_osr.data.dataset import OpenSetData
from nas_osr.errors import UserError
from nas_osr.search_spaces.supernet import Supernet
from nas_osr.training import graphs
from nas_osr.training.determinism import deterministic_algorithms
from nas_osr.training.graphs import WARM_UP
from tests.reliability.tape import Tape
from tests.reliability.test_same_bits import STEPS, Interrupting, assert_same, digits, retrain, search

__all__ = ["digits"]  # the fixture

CAPTURED = (
    "vae_contrastive",
    "cross_entropy-lorot",
    "cross_entropy",
    "cac",
    "crosr",
    "gmvae",
    "cross_entropy-rotpred",
    "arpl-alone",
)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[Tape]:
    monkeypatch.setattr(graphs, "DEVICES", ("cpu", "cuda"))
    monkeypatch.setattr(graphs, "CudaGraph", Tape)
    monkeypatch.setattr(Tape, "made", [])
    return Tape.made


def interrupted(run: Callable[[Interrupting, str], Any], stop_after: int, choices: tuple[str, str]) -> Interrupting:
    """A training that is cut and goes on, each part with its own choice of `--graphs`."""
    cut = Interrupting(stop_after=stop_after)
    with pytest.raises(KeyboardInterrupt):
        run(cut, choices[0])
    rest = Interrupting(before=cut)
    run(rest, choices[1])
    return rest


@pytest.mark.parametrize("variant", [*CAPTURED[:2], *(pytest.param(v, marks=pytest.mark.slow) for v in CAPTURED[2:])])
def test_a_retraining_of_replayed_steps(digits: OpenSetData, variant: str, stand_in: list[Tape]) -> None:
    """Twelve steps with a learning rate that changes and, for vae_contrastive, coefficients that rise."""
    plain, captured = Interrupting(), Interrupting()
    retrain(digits, variant, plain)
    retrain(digits, variant, captured, graphs="on")
    assert [graph.replays for graph in stand_in] == [2 * 6 - WARM_UP]
    # of gmvae one-hot labels do, which are checked on a CPU alone
    assert variant == "gmvae" or not any(graph.recorder.reads for graph in stand_in)
    assert_same(plain.records, captured.records)
    assert_same(plain.state, captured.state)
    for choices in (("on", "on"), ("off", "on"), ("on", "off")):
        rest = interrupted(lambda recorder, choice: retrain(digits, variant, recorder, graphs=choice), STEPS, choices)
        assert_same(plain.state, rest.state)


@pytest.mark.parametrize("strategy", ["pas", pytest.param("random", marks=pytest.mark.slow)])
def test_a_search_of_replayed_steps(digits: OpenSetData, strategy: str, stand_in: list[Tape]) -> None:
    plain, captured = Interrupting(), Interrupting()
    found = search(digits, "vae_contrastive", strategy, plain)
    assert search(digits, "vae_contrastive", strategy, captured, graphs="on") == found
    assert len(stand_in) == 2 and all(graph.replays > 0 for graph in stand_in)
    assert_same(plain.records, captured.records)
    assert_same(plain.state, captured.state)
    for stop_after in {"pas": (WARM_UP + 1, 10), "random": (40,)}[strategy]:
        rest = interrupted(
            lambda recorder, choice: search(digits, "vae_contrastive", strategy, recorder, graphs=choice),
            stop_after,
            ("on", "on"),
        )
        assert_same(plain.state, rest.state)


SAMPLED = {"sampler": "drnas", "entropy_weight": 1.0, "temperature": 0.1}
PLAIN = "plain:width=8,pooling=maximum"
OPTIONS: list[dict[str, Any]] = [
    SAMPLED,
    {"partial_channels": 2, "temperature": 0.1},
    {"order": "architecture_first", "final_entropy": 0.2},
]


@pytest.mark.parametrize("options", OPTIONS, ids=["drawn", "partial", "first"])
def test_a_search_of_replayed_steps_whose_temperature_falls(
    digits: OpenSetData, options: dict[str, Any], stand_in: list[Tape]
) -> None:
    """What Python sets anew after an epoch reaches the steps that were recorded before."""
    plain, captured = Interrupting(), Interrupting()
    found = search(digits, "cross_entropy", "pas", plain, epochs=3, **options)
    assert search(digits, "cross_entropy", "pas", captured, graphs="on", epochs=3, **options) == found
    assert len(stand_in) == 2 and all(graph.replays > 0 for graph in stand_in)
    assert_same(plain.records, captured.records)
    assert_same(plain.state, captured.state)


def test_a_temperature_that_is_not_where_the_step_reads_it_would_be_seen(
    digits: OpenSetData, stand_in: list[Tape], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-in sees what it is there for."""

    def elsewhere(supernet: Supernet, temperature: float) -> None:
        supernet.probabilities.temperature = torch.tensor(temperature)

    monkeypatch.setattr(Supernet, "set_temperature", elsewhere)
    plain, captured = Interrupting(), Interrupting()
    search(digits, "cross_entropy", "pas", plain, epochs=3, temperature=0.1)
    search(digits, "cross_entropy", "pas", captured, graphs="on", epochs=3, temperature=0.1)
    with pytest.raises(AssertionError):
        assert_same(plain.state, captured.state)


def test_a_plain_network_of_replayed_steps(digits: OpenSetData, stand_in: list[Tape]) -> None:
    """With a whitened stem, and an average of its weights beside the captured step."""
    plain, captured = Interrupting(), Interrupting()
    retrain(digits, "cross_entropy", plain, network=PLAIN, averaging=0.9)
    retrain(digits, "cross_entropy", captured, graphs="auto", network=PLAIN, averaging=0.9)
    assert len(stand_in) == 1 and stand_in[0].replays > 0
    assert_same(plain.state, captured.state)


@pytest.mark.gpu
@pytest.mark.parametrize("options", OPTIONS, ids=["drawn", "partial", "first"])
def test_a_captured_search_with_options_has_the_bits_of_a_plain_one(
    digits: OpenSetData, options: dict[str, Any]
) -> None:
    plain, captured = Interrupting(), Interrupting()
    with deterministic_algorithms(True):
        found = search(digits, "cross_entropy", "pas", plain, "cuda", epochs=3, **options)
        assert search(digits, "cross_entropy", "pas", captured, "cuda", "on", epochs=3, **options) == found
    assert_same(plain.state, captured.state)


@pytest.mark.parametrize(
    ("variant", "reason"),
    [
        ("confidence-gan", "several players, discriminator, generator, main"),
        ("moco", "objective moco decides part of a step in Python"),
    ],
)
def test_what_cannot_be_captured_says_so_once_and_runs(
    digits: OpenSetData, variant: str, reason: str, stand_in: list[Tape], caplog: pytest.LogCaptureFixture
) -> None:
    search(digits, variant, "pas", Interrupting(), graphs="on")
    assert not stand_in
    assert [record.message for record in caplog.records if "--graphs" in record.message] == [
        f"--graphs on: objective {variant.partition('-')[0]} has {reason}; steps run plainly"
        if "players" in reason
        else f"--graphs on: {reason}; steps run plainly"
    ]


def test_a_cpu_captures_nothing(digits: OpenSetData, caplog: pytest.LogCaptureFixture) -> None:
    retrain(digits, "cac", Interrupting(), graphs="auto")
    assert "graphs" not in caplog.text
    retrain(digits, "cac", Interrupting(), graphs="on")
    assert "--graphs on: graphs are captured on CUDA devices, not on cpu; steps run plainly" in caplog.text


class Refused(Tape):
    """Stands in for a step in which something cannot be recorded."""

    def capture(self, call: Callable[[], None]) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore of it")


def test_what_turns_out_not_to_be_capturable(
    digits: OpenSetData, stand_in: list[Tape], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """auto goes on plainly with the same bits, and on ends the run; auto captures what can be without a word."""
    plain, captured, refused = Interrupting(), Interrupting(), Interrupting()
    retrain(digits, "cross_entropy", plain)
    retrain(digits, "cross_entropy", captured, graphs="auto")
    assert [graph.replays for graph in stand_in] == [2 * 6 - WARM_UP] and "--graphs" not in caplog.text
    monkeypatch.setattr(graphs, "CudaGraph", Refused)
    retrain(digits, "cross_entropy", refused, graphs="auto")
    assert "--graphs auto: this step cannot be captured as a CUDA graph (operation not permitted" in caplog.text
    for other in (captured, refused):
        assert_same(plain.records, other.records)
        assert_same(plain.state, other.state)
    with pytest.raises(UserError, match="not permitted when stream is capturing\\): use --graphs off"):
        retrain(digits, "cross_entropy", Interrupting(), graphs="on")


class Foreign(torch.nn.Sequential):
    """A network that the toolkit does not know."""

    def __init__(self, image_channels: int = 3) -> None:
        super().__init__(torch.nn.Conv2d(image_channels, 8, 3), torch.nn.ReLU())


def test_auto_captures_no_module_of_another_package(
    digits: OpenSetData, stand_in: list[Tape], caplog: pytest.LogCaptureFixture
) -> None:
    """What it decides in Python would stay as it was when the step was recorded."""
    retrain(digits, "cross_entropy", Interrupting(), graphs="auto", network=f"{__name__}.Foreign")
    assert not stand_in
    assert f"--graphs auto: captured steps with {__name__}.Foreign (encoder." in caplog.text
    retrain(digits, "cross_entropy", Interrupting(), graphs="on", network=f"{__name__}.Foreign")
    assert len(stand_in) == 1


# On a GPU ---------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("variant", CAPTURED)
def test_a_captured_retraining_has_the_bits_of_a_plain_one(digits: OpenSetData, variant: str) -> None:
    plain, captured = Interrupting(), Interrupting()
    with deterministic_algorithms(True):
        retrain(digits, variant, plain, "cuda")
        retrain(digits, variant, captured, "cuda", "on")
        assert_same(plain.records, captured.records)
        assert_same(plain.state, captured.state)
        rest = interrupted(
            lambda recorder, choice: retrain(digits, variant, recorder, "cuda", choice), STEPS, ("on", "on")
        )
    assert_same(captured.state, rest.state)


@pytest.mark.gpu
def test_a_step_that_fails_while_it_is_captured_goes_on_plainly(
    digits: OpenSetData, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With the bits of a plain training, and its reason, not what the end of the capture says of it."""
    from nas_osr.objectives.cross_entropy import CrossEntropy

    losses = CrossEntropy.losses

    def reading(self: Any, *given: Any, **named: Any) -> Any:
        terms = losses(self, *given, **named)
        assert all(term.item() == term.item() for term in terms.values())
        return terms

    plain, refused = Interrupting(), Interrupting()
    with deterministic_algorithms(True):
        retrain(digits, "cross_entropy-lorot", plain, "cuda")
        monkeypatch.setattr(CrossEntropy, "losses", reading)
        retrain(digits, "cross_entropy-lorot", refused, "cuda", "auto")
    assert "--graphs auto: this step cannot be captured as a CUDA graph (" in caplog.text
    assert "previous error" not in caplog.text
    assert_same(plain.state, refused.state)


@pytest.mark.gpu
@pytest.mark.parametrize("network", [PLAIN, "resnet18"])
def test_a_captured_baseline_network_has_the_bits_of_a_plain_one(digits: OpenSetData, network: str) -> None:
    plain, captured = Interrupting(), Interrupting()
    with deterministic_algorithms(True):
        retrain(digits, "cross_entropy", plain, "cuda", network=network)
        retrain(digits, "cross_entropy", captured, "cuda", "on", network=network)
    assert_same(plain.state, captured.state)


@pytest.mark.gpu
@pytest.mark.parametrize("variant", CAPTURED)
def test_a_captured_retraining_is_close_to_a_plain_one(digits: OpenSetData, variant: str) -> None:
    """Without `--deterministic`, sums may be taken in another order."""
    plain, captured = Interrupting(), Interrupting()
    retrain(digits, variant, plain, "cuda")
    retrain(digits, variant, captured, "cuda", "on")
    for name, value in plain.records[0]["losses"].items():
        assert captured.records[0]["losses"][name] == pytest.approx(value, rel=1e-3, abs=1e-5)


@pytest.mark.gpu
def test_a_captured_search_has_the_bits_of_a_plain_one_and_goes_on(digits: OpenSetData) -> None:
    """And nothing warns of parameters on two devices."""
    plain, captured = Interrupting(), Interrupting()
    with deterministic_algorithms(True), warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*parameters on different devices")
        found = search(digits, "vae_contrastive", "pas", plain, "cuda")
        assert search(digits, "vae_contrastive", "pas", captured, "cuda", "on") == found
        assert_same(plain.records, captured.records)
        assert_same(plain.state, captured.state)
        rest = interrupted(
            lambda recorder, choice: search(digits, "vae_contrastive", "pas", recorder, "cuda", choice),
            WARM_UP + 1,
            ("on", "on"),
        )
    assert_same(captured.state, rest.state)
