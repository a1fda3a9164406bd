"""Captured steps train as plain ones do, bit for bit: here replayed by a stand-in, on a GPU as CUDA graphs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

from nas_osr.data.dataset import OpenSetData
from nas_osr.errors import UserError
from nas_osr.training import graphs
from nas_osr.training.determinism import deterministic_algorithms
from nas_osr.training.graphs import WARM_UP
from tests.reliability.test_same_bits import STEPS, Interrupting, assert_same, digits, retrain, search

__all__ = ["digits"]  # the fixture

CAPTURED = ("vae_contrastive", "cross_entropy-lorot", "cross_entropy", "cac", "crosr", "gmvae")


class Again:
    """Stands in for a CUDA graph: the recorded call runs again, on the memory that it was recorded with."""

    made: list[Again] = []

    def __init__(self, device: torch.device) -> None:
        self.replays = 0
        Again.made.append(self)

    def warm_up(self, call: Callable[[], None]) -> None:
        call()

    def capture(self, call: Callable[[], None]) -> None:
        self.call = call

    def replay(self) -> None:
        self.replays += 1
        self.call()


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[Again]:
    monkeypatch.setattr(graphs, "DEVICES", ("cpu", "cuda"))
    monkeypatch.setattr(graphs, "CudaGraph", Again)
    monkeypatch.setattr(Again, "made", [])
    return Again.made


def interrupted(run: Callable[[Interrupting, str], Any], stop_after: int, choices: tuple[str, str]) -> Interrupting:
    """A training that is cut and goes on, each part with its own choice of `--graphs`."""
    cut = Interrupting(stop_after=stop_after)
    with pytest.raises(KeyboardInterrupt):
        run(cut, choices[0])
    rest = Interrupting(before=cut)
    run(rest, choices[1])
    return rest


@pytest.mark.parametrize("variant", [*CAPTURED[:2], *(pytest.param(v, marks=pytest.mark.slow) for v in CAPTURED[2:])])
def test_a_retraining_of_replayed_steps(digits: OpenSetData, variant: str, stand_in: list[Again]) -> None:
    """Twelve steps with a learning rate that changes and, for vae_contrastive, coefficients that rise."""
    plain, captured = Interrupting(), Interrupting()
    retrain(digits, variant, plain)
    retrain(digits, variant, captured, graphs="on")
    assert [graph.replays for graph in stand_in] == [2 * 6 - WARM_UP]
    assert_same(plain.records, captured.records)
    assert_same(plain.state, captured.state)
    for choices in (("on", "on"), ("off", "on"), ("on", "off")):
        rest = interrupted(lambda recorder, choice: retrain(digits, variant, recorder, graphs=choice), STEPS, choices)
        assert_same(plain.state, rest.state)


@pytest.mark.parametrize("strategy", ["pas", pytest.param("random", marks=pytest.mark.slow)])
def test_a_search_of_replayed_steps(digits: OpenSetData, strategy: str, stand_in: list[Again]) -> None:
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


@pytest.mark.parametrize(
    ("variant", "reason"),
    [
        ("confidence-gan", "several players, discriminator, generator, main"),
        ("moco", "objective moco decides part of a step in Python"),
    ],
)
def test_what_cannot_be_captured_says_so_once_and_runs(
    digits: OpenSetData, variant: str, reason: str, stand_in: list[Again], caplog: pytest.LogCaptureFixture
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


class Refused(Again):
    """Stands in for a step in which something cannot be recorded."""

    def capture(self, call: Callable[[], None]) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore of it")


def test_what_turns_out_not_to_be_capturable(
    digits: OpenSetData, stand_in: list[Again], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
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
