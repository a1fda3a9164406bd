"""Muon on convolutions and AdamW on the rest: one step by hand, resumption, older versions of torch."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nas_osr.cli.main import main
from nas_osr.training.muon import Muon
from nas_osr.training.recipes import make_recipe


def make_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(64, 5))


def learn(network: nn.Module, optimizer: Any, seed: int) -> None:
    images = torch.rand(16, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    network(images).square().mean().backward()
    optimizer.step()


def test_a_step_by_hand() -> None:
    """Filters move along the orthogonal factor of their gradient (by SVD, to what five iterations reach)."""
    network = make_network().to(memory_format=torch.channels_last)
    other = copy.deepcopy(network)
    learn(network, make_recipe("strong", {"optimizer": "muon", "learning_rate": 0.01, "weight_decay": 0.0})
          .make_optimizer(network.parameters()), 1)  # fmt: skip
    learn(other, torch.optim.AdamW(other.parameters(), 0.01, weight_decay=0.0, fused=True), 1)
    for (name, before), (_, after) in zip(make_network().named_parameters(), network.named_parameters(), strict=True):
        if before.dim() != 4:
            assert torch.equal(after, other.get_parameter(name)), name
            continue
        gradient = other.get_parameter(name).grad
        left, _, right = torch.linalg.svd(gradient.flatten(1), full_matrices=False)
        size = 0.01 * 0.2 * math.sqrt(max(before.flatten(1).shape))
        turned = left.T @ ((before - after).detach() / size).flatten(1) @ right.T
        values = turned.diagonal()
        assert (values > 0.5).all() and (values < 1.4).all(), name
        torch.testing.assert_close(turned - torch.diag(values), torch.zeros_like(turned), rtol=0, atol=0.05)


def test_it_goes_on_from_its_state_bit_for_bit() -> None:
    network = make_network()
    optimizer = Muon(network.parameters(), 0.02, 0.9, True, 0.1)
    learn(network, optimizer, 1)
    again, state = copy.deepcopy(network), copy.deepcopy(optimizer.state_dict())
    resumed = Muon(again.parameters(), 0.5, 0.9, True, 0.1)
    resumed.load_state_dict(state)
    for seed in (2, 3):
        learn(network, optimizer, seed)
        learn(again, resumed, seed)
    for own, theirs in zip(network.parameters(), again.parameters(), strict=True):
        assert torch.equal(own, theirs)


def test_an_older_torch_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr(torch.optim, "Muon")
    command = ["retrain", "--protocol", "digits", "--network", "plain:width=4", "--recipe_config.optimizer", "muon"]
    command += ["--recipe_config.learning_rate", ".002"]
    assert main([*command, "--out", str(tmp_path / "run")]) == 2
    assert "optimizer muon needs torch 2.9 or newer" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
