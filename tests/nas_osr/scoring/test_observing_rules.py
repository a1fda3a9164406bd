"""Rules that look into the network: neighbours in several layers, and how sure it is of an image's turns."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor
from torch.nn import functional as F

from nas_osr.data.batches import to_float
from nas_osr.data.sources.digits import Digits
from nas_osr.errors import UserError
from nas_osr.evaluation.predictions import read_predictions
from nas_osr.outputs import Observed, Outputs, mean_of_both
from nas_osr.retrain.evaluate import run_evaluate
from nas_osr.retrain.model_reading import open_model
from nas_osr.retrain.reopen import reopen
from nas_osr.retrain.retrain_request import EvaluateRequest, ReopenOptions, RetrainRequest
from nas_osr.retrain.run import run_retrain
from nas_osr.runs.run_folder import RunFolder
from nas_osr.scoring.layers import KNNLayers
from nas_osr.scoring.neighbours import Neighbours
from nas_osr.scoring.rotation import RotationConfidence

CPU: dict[str, Any] = {"device": "cpu", "threads": 1}


def layered(count: int, seed: int) -> tuple[Observed, Tensor]:
    """Three layers of 5 features, of two classes in directions of their own."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    layers = 3 * torch.eye(5)[labels][:, None] + torch.randn(count, 3, 5, generator=generator)
    return Observed(logits=F.one_hot(labels, 2).float(), layers=layers), labels


def test_layers_against_scikit_learn() -> None:
    (train, labels), (validation, known), (test, _) = layered(200, 0), layered(60, 1), layered(40, 2)
    rule = KNNLayers(k=7, block_size=16)
    rule.fit(train, labels)
    rule.set_threshold(validation, known)
    expected = np.zeros(40)
    for layer in range(3):
        searched = NearestNeighbors(n_neighbors=7, metric="cosine").fit(train.layers[:, layer].numpy())
        near, far = (1 - searched.kneighbors(part.layers[:, layer].numpy())[0][:, -1] for part in (validation, test))
        expected += (far - near.mean()) / near.std()
    np.testing.assert_allclose(rule.scores(test).knownness.numpy(), expected, rtol=1e-4, atol=1e-4)
    unknown = Observed(logits=test.logits, layers=torch.full((40, 3, 5), -1.0))
    assert rule.scores(unknown).knownness.max() < rule.threshold


def test_one_layer_ranks_as_knn_does_whatever_its_scale() -> None:
    (train, labels), (validation, known), (test, _) = layered(200, 0), layered(60, 1), layered(40, 2)
    found = []
    for factor in (1.0, 1000.0):
        rule = KNNLayers(k=7, layers=3)
        parts = [Observed(logits=part.logits, layers=part.layers * factor) for part in (train, validation, test)]
        rule.fit(parts[0], labels)
        rule.set_threshold(parts[1], known)
        found.append(rule.scores(parts[2]).knownness)
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


def test_layers_without_logits_tell_classes_by_the_last_map() -> None:
    (train, labels), (validation, known), (test, wanted) = layered(200, 0), layered(60, 1), layered(40, 2)
    found = []
    for bare in (False, True):
        parts = [
            Observed(logits=None if bare else part.logits, layers=part.layers) for part in (train, validation, test)
        ]
        rule = KNNLayers(k=7)
        rule.fit(parts[0], labels)
        rule.set_threshold(parts[1], known)
        found.append(rule.scores(parts[2]))
    assert torch.equal(found[0].knownness, found[1].knownness)
    neighbours = Neighbours(k=7)
    neighbours.fit(Outputs(embedding=train.layers[:, -1]), labels)
    expected = neighbours.scores(Outputs(embedding=test.layers[:, -1])).class_scores
    torch.testing.assert_close(found[1].class_scores, expected, rtol=1e-5, atol=1e-5)
    assert (found[1].labels == wanted).double().mean() > 0.9


def test_rotation_confidence_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    turns = torch.tensor([[-0.1, -0.2, -0.3, -0.4], [-1.0, -2.0, -3.0, -4.0]])
    scores = RotationConfidence().scores(Observed(logits=logits, turns=turns))
    weights = np.exp([2.0, 0.0, 1.0])
    divergence = sum(math.log((1 / 3) / p) / 3 for p in weights / weights.sum())
    assert scores.knownness.tolist() == pytest.approx([divergence - 0.25, -2.5], abs=1e-6)
    largest = RotationConfidence(of_classes="maximum").scores(Observed(logits=logits, turns=turns))
    assert largest.knownness.tolist() == pytest.approx([weights.max() / weights.sum() - 0.25, 1 / 3 - 2.5], abs=1e-6)
    with pytest.raises(UserError, match="of_classes must be"):
        RotationConfidence(of_classes="mean")


def brightest_corner(images: Tensor, whole: bool = False) -> Outputs:
    """A network that sees how far to the left an image with a bright upper left corner has been turned."""
    corners = torch.stack([images[:, 0, 0, 0], images[:, 0, -1, 0], images[:, 0, -1, -1], images[:, 0, 0, -1]], dim=1)
    return Observed(logits=corners[:, :2], turns=5 * corners)


def test_an_image_is_looked_at_in_all_its_turns() -> None:
    images = torch.zeros(2, 1, 6, 6)
    images[0, 0, 0, 0] = 1.0  # upright
    images[1, 0, -1, 0] = 1.0  # turned by a quarter: every answer is wrong
    upright, turned = RotationConfidence().observe(brightest_corner, images).turns
    right = math.log(math.exp(5) / (math.exp(5) + 3))
    assert upright.tolist() == pytest.approx([right] * 4, abs=1e-5)
    assert turned.tolist() == pytest.approx([right - 5] * 4, abs=1e-5)


def test_a_mirror_turns_the_other_way() -> None:
    """An image that is its own mirror image, turned by a quarter to the left, is seen so in the mirror, too."""

    def look(images: Tensor) -> Outputs:
        sides = torch.stack([part.mean((1, 2)) for part in (
            images[:, 0, :1], images[:, 0, :, :1], images[:, 0, -1:], images[:, 0, :, -1:])], dim=1)  # fmt: skip
        return Observed(logits=sides, turns=sides)

    upright = torch.zeros(1, 1, 6, 6)
    upright[:, :, 0] = 1.0  # a bright upper edge
    for turn in range(4):
        seen = mean_of_both(look, torch.rot90(upright, turn, (2, 3)))
        assert isinstance(seen, Observed) and seen.turns is not None and seen.turns.argmax().item() == turn


TINY: dict[str, Any] = {
    "protocol": "digits", "preset": "tiny", "limit_per_class": 20, "epochs": 2, "batch_size": 32, **CPU, "bootstrap": 0,
    "quiet": True, "objective": "cross_entropy",
}  # fmt: skip


def test_both_rules_on_a_trained_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the training to the model folder, with mirror images; against the encoder's maps by hand."""
    monkeypatch.setattr(Digits, "mirrors", True)
    asked = {**TINY, "objective_config": {"side_task": "rotpred"}, "recipe_config": {"mirrored": True}}
    run_retrain(RetrainRequest(**asked, network="plain:width=4", rule="rotpred", out=str(tmp_path / "run")), ["x"])
    part = tmp_path / "run" / "split-0"
    model = open_model(part)
    assert model.rule.name == "rotpred" and model.learner.mirrored
    opened = reopen(RunFolder.open(part), ReopenOptions(**CPU))
    images = to_float(opened.data.test().images[:30])
    with torch.inference_mode():
        answers = model.rule.scores(model.rule.observe(model.learner.infer, images)).knownness
        layers = [model.learner.encoder(view).intermediate for view in (images, images.flip(3))]
        found = model.learner.infer(images, whole=True)
    np.testing.assert_allclose(read_predictions(part / "predictions.csv").knownness[:30], answers, rtol=1e-4, atol=1e-4)
    assert isinstance(found, Observed) and found.layers is not None and found.layers.shape == (30, 3, 16)
    for number, scale in enumerate((-1, 0, 1)):
        mean = sum(maps[scale].mean((2, 3)) for maps in layers) / 2
        torch.testing.assert_close(found.layers[:, number, : mean.shape[1]], mean, rtol=1e-4, atol=1e-5)
        assert not found.layers[:, number, mean.shape[1] :].any()
    results = run_evaluate(EvaluateRequest(run=str(part), rule="all", **CPU, bootstrap=0))
    assert {"knn_layers", "rotpred", "mls"} <= {result["rule"] for result in results}
    assert next(result for result in results if result["rule"] == "rotpred")["label"] == ""


def test_a_network_without_the_side_task_is_refused(tmp_path: Path) -> None:
    for side_task in ("none", "lorot"):
        request = RetrainRequest(
            **TINY, rule="rotpred", objective_config={"side_task": side_task}, out=str(tmp_path / "a")
        )
        with pytest.raises(UserError, match="train with --objective_config.side_task rotpred"):
            run_retrain(request, ["x"])
    assert not (tmp_path / "a").exists()
