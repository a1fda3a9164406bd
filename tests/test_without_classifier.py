"""A user's objective without a classifier goes through search, retrain and evaluate: the rule gives the labels."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import nas_osr
from nas_osr.evaluation.predictions import read_predictions

OBJECTIVE = """
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from nas_osr.objectives.base import Objective
from nas_osr.objectives.parts.pooling import pool, pooled_width
from nas_osr.outputs import Outputs


@dataclass(frozen=True)
class PrototypesConfig:
    pass


class Prototypes(Objective):
    name = "prototypes"
    config_class = PrototypesConfig
    provides = frozenset({"embedding"})
    default_rule = "neighbours"

    def __init__(self, feature_shapes, image_shape, num_classes, config):
        super().__init__(feature_shapes, image_shape, num_classes, config)
        self.points = torch.nn.Parameter(torch.randn(num_classes, pooled_width(feature_shapes)))

    def forward(self, encoder, images):
        embedding = pool(encoder(images))
        return Outputs(embedding=embedding)

    def losses(self, encoder, batch, player="main", progress=1.0):
        images, labels = batch
        return {"nearest": cross_entropy(-torch.cdist(pool(encoder(images)), self.points), labels)}
"""
COMMON = {"protocol": "digits", "preset": "tiny", "limit_per_class": 40, "device": "cpu", "threads": 1, "quiet": True}


@pytest.fixture
def objective(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "own_objective.py").write_text(OBJECTIVE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "own_objective.Prototypes"
    sys.modules.pop("own_objective", None)


@pytest.mark.parametrize("rule", ["neighbours", "nc_distance"])
def test_search_retrain_and_evaluate(objective: str, rule: str, tmp_path: Path) -> None:
    search, retrain = str(tmp_path / "search"), str(tmp_path / "retrain")
    sizes = {"epochs": 2, "batch_size": 16, "objective": objective}
    found = nas_osr.search(**COMMON, **sizes, rule=rule, layers=3, warmup_epochs=1, out=search)
    assert 0.0 < found["f1"] <= 1.0
    nas_osr.train(**COMMON, **sizes, rule=rule, architecture=search, bootstrap=0, out=retrain)
    for again, suffix in ((None, ""), ("nc_uncertainty", "-nc_uncertainty")):
        (result,) = nas_osr.evaluate(run=retrain, rule=again, device="cpu", threads=1, bootstrap=0)
        path = tmp_path / "retrain" / "split-0" / f"predictions{suffix}.csv"
        predictions = read_predictions(path)
        assert (predictions.column, predictions.num_known) == ("score", 6)
        np.testing.assert_array_equal(predictions.closed_set_label, predictions.class_scores.argmax(axis=1))
        assert result["metrics"] == read_predictions(path).metrics()
        assert result["metrics"]["closed_set_accuracy"] > 2 / 6


def test_a_rule_that_needs_logits_is_refused(objective: str, tmp_path: Path) -> None:
    with pytest.raises(nas_osr.UserError, match="'msp' needs logits.*'prototypes'.* it feeds: .*neighbours"):
        nas_osr.train(**COMMON, objective=objective, rule="msp", out=str(tmp_path / "run"))
