"""ONNX graphs of every rule say what torch says of a thousand real images."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from nas_osr.data.dataset import OpenSetData, load_data
from nas_osr.data.protocols import make_protocol
from nas_osr.deploy.onnx_graph import (
    KNOWNNESS_ERROR,
    OUTPUTS,
    OpenSetGraph,
    compare_answers,
    example_images,
    make_graph,
    open_session,
    run_graph,
    run_module,
)
from nas_osr.errors import UserError
from nas_osr.outputs import Outputs
from nas_osr.retrain.evaluate import fit_rules
from nas_osr.retrain.model import Model, inputs_of
from nas_osr.retrain.model_reading import open_model
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.retrain.run import run_retrain
from nas_osr.scoring import RULES, make_rule
from nas_osr.scoring.base import Scores, ScoringRule

IMAGES = 1000


class Projections(nn.Module):
    """All outputs that rules read, from random projections of an image's 64 real pixels."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.hidden, self.heads = nn.Linear(64, 16), nn.Linear(16, 2 * classes)
        self.objective, self.mirrored = SimpleNamespace(num_classes=classes), False

    def infer(self, images: Tensor) -> Outputs:
        embedding = torch.relu(self.hidden(nn.functional.avg_pool2d(images, 4).flatten(1) * 4))
        logits, errors = self.heads(embedding).chunk(2, dim=1)
        return Outputs(
            logits=6 * logits,
            embedding=embedding,
            latent_mean=embedding[:, :8],
            class_reconstruction_error=nn.functional.softplus(errors),
        )


@pytest.fixture(scope="module")
def digits() -> OpenSetData:
    return load_data(make_protocol("digits"))


@pytest.fixture(scope="module")
def thousand(digits: OpenSetData) -> Tensor:
    return torch.cat([digits.test().images, digits.train.images])[:IMAGES]


def project(rule: ScoringRule, digits: OpenSetData) -> Model:
    protocol = digits.protocol
    learner: Any = Projections(protocol.num_known).eval()
    fit_rules([rule], learner, digits, "cpu")
    plan: Any = SimpleNamespace(rule=rule.name)
    return Model("projections", plan, inputs_of(protocol), learner, rule, None, {})


AT_ONCE = ("mls", "openmax", "neighbours", "nc_uncertainty")  # the others, alike or of many operations, are slow
LATER = [
    pytest.param(name, marks=pytest.mark.slow)
    for name in (*sorted(set(RULES) - {*AT_ONCE, "odin", "knn_layers", "rotpred"}), "cap relative", "cap eq5")
]


@pytest.mark.parametrize("name", [*AT_ONCE, *LATER])
def test_every_rule_decides_the_same_in_onnx_runtime(name: str, digits: OpenSetData, thousand: Tensor) -> None:
    kind, _, stage_two = name.partition(" ")
    settings = {"stage_two": stage_two} if stage_two else {"k": 10} if kind in ("knn", "nnguide") else {}
    model = project(make_rule(kind, settings), digits)
    module = OpenSetGraph(model).eval()
    expected = run_module(module, thousand)
    found = run_graph(open_session(make_graph(model).SerializeToString()), thousand.numpy())
    assert len(thousand) == IMAGES and 0 < (expected["label"] == 6).mean() < 1
    assert np.array_equal(found["label"], expected["label"])
    assert np.array_equal(found["nearest"], expected["nearest"])
    for output in ("knownness", "margin"):
        scale = np.abs(expected[output]).max()
        assert found[output].dtype == np.float64
        assert np.allclose(found[output], expected[output], rtol=0, atol=KNOWNNESS_ERROR * scale)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("odin", "it takes gradients with respect to the image"), ("pytorch_ood.KNN", "pytorch-ood computes its scores")],
)
def test_what_cannot_be_a_graph_says_why(name: str, reason: str, digits: OpenSetData) -> None:
    model = project(make_rule(name), digits)
    with pytest.raises(UserError, match=f"rule {name} cannot be exported to ONNX: {reason}; choose another --rule"):
        make_graph(model)


@pytest.mark.slow
def test_classes_without_images_and_thresholds_per_class(digits: OpenSetData, thousand: Tensor) -> None:
    """Of CAP and the neighbours, whose loops over classes are written out in the graph."""
    for name in ("cap", "neighbours"):
        model = project(make_rule(name), digits)
        if name == "cap":
            model.rule.usable[2] = False  # type: ignore[attr-defined]
        else:
            model.rule.directions = model.rule.directions[: model.rule.counts[:5].sum()]  # type: ignore[attr-defined]
            model.rule.counts[5] = 0  # type: ignore[attr-defined]
        knownness = run_module(OpenSetGraph(model), thousand)["knownness"]
        limits = tuple(np.quantile(knownness, np.linspace(0.1, 0.6, 6)).tolist())
        model = replace(model, class_thresholds=limits)
        expected = run_module(OpenSetGraph(model), thousand)
        found = run_graph(open_session(make_graph(model).SerializeToString()), thousand.numpy())
        assert np.array_equal(found["label"], expected["label"])
        assert 0.1 < (found["label"] == 6).mean() < 0.9
        assert compare_answers(OpenSetGraph(model), thousand, found) == ""


def test_floats_say_what_bytes_say_and_metadata_what_the_model_knows(digits: OpenSetData, thousand: Tensor) -> None:
    model = project(make_rule("mls"), digits)
    graphs = {kind: make_graph(model, kind) for kind in ("uint8", "float32")}
    sessions = {kind: open_session(graph.SerializeToString()) for kind, graph in graphs.items()}
    from_bytes = run_graph(sessions["uint8"], thousand.numpy())
    from_floats = run_graph(sessions["float32"], thousand.numpy().astype(np.float32) / 255)
    assert all(np.array_equal(from_bytes[name], from_floats[name]) for name in OUTPUTS)
    metadata = {item.key: item.value for item in graphs["uint8"].metadata_props}
    assert metadata["classes"] == '["2", "4", "5", "9", "8", "3"]' and metadata["unknown_label"] == "6"
    assert metadata["thresholds"] == str([model.rule.threshold] * 6) and '"torch"' in metadata["versions"]
    inferred = onnx.shape_inference.infer_shapes(graphs["uint8"], strict_mode=True)
    assert [value.type.tensor_type.shape.dim[0].dim_param for value in inferred.graph.input] == ["n"]


class Unwritable(ScoringRule):
    """A rule that decides in Python."""

    name = "unwritable"
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    def scores(self, outputs: Outputs) -> Scores:
        assert outputs.logits is not None
        logits = outputs.logits.double()
        return Scores(torch.tensor([max(row) for row in logits.tolist()], dtype=torch.float64), logits)


def test_what_cannot_be_exported_says_so_in_a_line(digits: OpenSetData) -> None:
    with pytest.raises(UserError, match="^rule unwritable on projections cannot be exported to ONNX: [^\n]*$"):
        make_graph(project(Unwritable(), digits))


def test_another_answer_is_noticed(digits: OpenSetData) -> None:
    model = project(make_rule("energy"), digits)
    module, images = OpenSetGraph(model), example_images(model, 3, "uint8")
    found = run_module(module, images)
    assert compare_answers(module, images, found) == ""
    assert "0 of 3 labels differ" in compare_answers(module, images, {**found, "knownness": found["knownness"] + 1})
    assert "3 of 3 labels differ" in compare_answers(module, images, {**found, "nearest": found["nearest"] + 1})


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["vae_contrastive", "gmvae", "crosr", "moco"])
def test_whole_networks_on_digits(objective: str, thousand: Tensor, tmp_path: Path) -> None:
    request = RetrainRequest(
        architecture="random:0", protocol="digits", preset="tiny", epochs=2, objective=objective, device="cpu",
        bootstrap=0, quiet=True, out=str(tmp_path / "run"),
    )  # fmt: skip
    check_whole(request, thousand)


@pytest.mark.slow
@pytest.mark.skipif("NAS_OSR_DATA" not in os.environ, reason="the images of CIFAR-10 are not here (NAS_OSR_DATA)")
@pytest.mark.parametrize("network", ["resnet18", "timm:test_resnet"])
def test_whole_networks_on_cifar10(network: str, tmp_path: Path) -> None:
    request = RetrainRequest(
        network=network, protocol="cifar10", preset="tiny", epochs=1, limit_per_class=200, objective="cross_entropy",
        device="cpu", bootstrap=0, quiet=True, out=str(tmp_path / "run"),
    )  # fmt: skip
    check_whole(request, load_data(make_protocol("cifar10")).test().images[::10])


def check_whole(request: RetrainRequest, images: Tensor) -> None:
    run_retrain(request, ["nas-osr", "retrain"])
    model = open_model(request.out)
    graph = make_graph(model)
    assert len(images) == IMAGES
    found = run_graph(open_session(graph.SerializeToString()), images.numpy())
    assert compare_answers(OpenSetGraph(model).eval(), images, found) == ""
