"""Operation-level early stopping: on made-up gradients, and in a search that is interrupted."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

import nas_osr
from nas_osr.errors import UserError
from nas_osr.runs.recorder import RunRecorder
from nas_osr.runs.run_folder import RunFolder
from nas_osr.search_spaces.space import Space
from nas_osr.search_spaces.supernet import build_supernet
from nas_osr.strategies.bilevel.operation_stopping import OperationStopping

OPTIONS: dict[str, Any] = {
    "protocol": "digits", "preset": "tiny", "layers": 3, "channels": 8, "epochs": 3, "batch_size": 8, "seed": 3,
    "limit_per_class": 24, "objective": "cross_entropy", "device": "cpu", "threads": 1, "quiet": True,
    "checkpoint_minutes": 1e-6,
}  # fmt: skip
OWN = {"warmup_epochs": 1, "freeze_below": 0.6, "freeze_window": 3, "partial_channels": 2}


def make(window: int = 3, below: float = 0.4) -> OperationStopping:
    torch.manual_seed(0)
    supernet = build_supernet(Space(layers=4, channels=4), 1, (0.0,), (1.0,))
    return OperationStopping(supernet, Fabric(accelerator="cpu", devices=1), below, window)


def give(stopping: OperationStopping, lean: dict[str, float], seed: int) -> dict[str, float]:
    """Gradients on both halves, of which those of an operation lean to each other so much; their cosines by NumPy."""
    generator, seen, cosines = torch.Generator().manual_seed(seed), {}, {}
    for name, weights in stopping.operations.items():
        sides: list[list[Tensor]] = [[], []]
        for weight in weights:
            one, other = torch.randn(2, *weight.shape, generator=generator)
            weight.grad = one if weight.requires_grad else None
            seen[weight] = lean.get(name, 0.9) * one + 0.3 * other
            sides[0].append(one.flatten())
            sides[1].append(seen[weight].flatten())
        a, b = (torch.cat(side).double().numpy() for side in sides)
        cosines[name] = float(a @ b / np.sqrt((a @ a) * (b @ b)))
    stopping.look(seen)
    return cosines


def test_operations_are_those_with_weights_by_form() -> None:
    names = set(make().operations)
    assert "0_0_keep conv" in names and "0_0_halve skip" in names and "0_0_keep skip" not in names


def test_the_mean_cosine_of_a_window_decides() -> None:
    stopping, lean = make(), {"0_0_keep conv": -0.5, "1_1_keep conv2": 0.0}
    cosines = []
    for pair in range(3):
        assert not stopping.frozen.any()
        cosines.append(give(stopping, lean, pair))
        stopping.decide()
    names = [*stopping.operations]
    below = {name for name in names if np.mean([found[name] for found in cosines]) < 0.4}
    assert below == set(lean)  # the others lean together
    assert {name for name, frozen in zip(names, stopping.frozen.tolist(), strict=True) if frozen} == below
    assert not stopping.counts.any() and not stopping.totals.any()  # the next window begins
    # what is frozen learns no more, whatever comes; the others do
    weights = {name: stopping.operations[name][0] for name in ("0_0_keep conv", "1_1_keep conv")}
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    optimizer = torch.optim.Adam(nn.ParameterList(stopping.weights), lr=0.1, weight_decay=0.1)
    for pair in range(3, 9):
        give(stopping, {}, pair)
        optimizer.step()
        stopping.decide()
    assert torch.equal(weights["0_0_keep conv"], before["0_0_keep conv"])
    assert not torch.equal(weights["1_1_keep conv"], before["1_1_keep conv"])
    assert stopping.frozen.sum() == 2


def test_pairs_without_both_gradients_do_not_count() -> None:
    """As for candidates that have not been sampled."""
    stopping = make(window=2)
    give(stopping, {}, 0)
    stopping.seen = {}
    stopping.decide()
    assert not stopping.counts.any()
    give(stopping, {}, 1)
    stopping.decide()
    assert stopping.counts.tolist() == [1.0] * len(stopping.operations)
    other = make(window=2)
    other.load_state_dict(stopping.state_dict())
    assert torch.equal(other.totals, stopping.totals) and torch.equal(other.counts, stopping.counts)


def test_an_interrupted_search_freezes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {**OPTIONS, "strategy_config": OWN}
    nas_osr.search(**options, out=str(tmp_path / "whole"))
    history = RunFolder.open(tmp_path / "whole").read_history()
    frozen = [record["frozen_operations"] for record in history]
    assert frozen[0] == 0 and frozen == sorted(frozen) and frozen[-1] > 0
    assert all(0 <= record["discrete_f1"] <= 1 for record in history)  # partial channels: of the supernet itself
    left, wants_checkpoint = [0], RunRecorder.wants_checkpoint

    def interrupt(self: RunRecorder) -> bool:
        left[0] -= 1
        if left[0] == 0:
            wants_checkpoint(self)
            os.kill(os.getpid(), signal.SIGINT)
        return wants_checkpoint(self)

    monkeypatch.setattr(RunRecorder, "wants_checkpoint", interrupt)
    left[0] = 7  # in the second epoch, between two pairs
    with pytest.raises(KeyboardInterrupt):
        nas_osr.search(**options, out=str(tmp_path / "cut"))
    left[0] = -1
    nas_osr.search(**options, out=str(tmp_path / "cut"), resume="auto")
    for name in ("history.jsonl", "architecture.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_what_does_not_go_together(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="freeze_below: an unrolled step"):
        nas_osr.search(**OPTIONS, strategy_config={**OWN, "unrolled": True}, out=str(tmp_path / "run"))
