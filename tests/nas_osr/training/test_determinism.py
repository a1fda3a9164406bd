"""`--deterministic`: what it switches on, and that it switches it off again."""

from __future__ import annotations

import os

import pytest
import torch

from nas_osr.errors import UserError
from nas_osr.strategies.search_request import SearchRequest
from nas_osr.training.determinism import WORKSPACE, deterministic_algorithms


def test_only_deterministic_algorithms_inside_and_as_before_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKSPACE, "")
    monkeypatch.delenv(WORKSPACE)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    with deterministic_algorithms(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.benchmark
        assert os.environ[WORKSPACE] == ":4096:8"
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark
    with deterministic_algorithms(False):
        assert not torch.are_deterministic_algorithms_enabled()


def test_an_operation_without_one_is_told_in_one_line() -> None:
    with pytest.raises(UserError, match=r"does not have a deterministic implementation: train without --determin"):
        run_what_has_none()
    assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(RuntimeError, match="something else"), deterministic_algorithms(True):
        raise RuntimeError("something else")


def run_what_has_none() -> None:
    with deterministic_algorithms(True):
        torch.zeros(2).put_(torch.tensor([0, 0]), torch.ones(2))  # one of the few on a CPU


def test_it_is_recorded() -> None:
    assert SearchRequest(deterministic=True).recorded()["deterministic"] is True
    assert "checkpoint_minutes" not in SearchRequest().recorded()
