"""The last layer, taken over or found, and the rules on it: against pytorch-ood, autograd and numbers by hand."""

import pytest
import torch

from nas_osr.errors import UserError
from nas_osr.objectives.cross_entropy import CrossEntropy, CrossEntropyConfig
from nas_osr.outputs import FeatureShapes, Outputs
from nas_osr.scoring import make_rule
from nas_osr.scoring.linear_head import FDBD, FeatureNorm, GradNorm
from tests.nas_osr.scoring.linear_outputs import linear_outputs, make_layer

TRAIN, TEST = linear_outputs(200, seed=0), linear_outputs(90, seed=1)[0]


def test_the_layer_is_the_objectives_or_found_by_least_squares():
    objective = CrossEntropy(FeatureShapes({2: (12, 2, 2)}, {}), (1, 8, 8), 4, CrossEntropyConfig())
    taken, found = GradNorm(), GradNorm()
    taken.fit(*TRAIN, objective)
    assert torch.equal(taken.weight, objective.classifier.weight.double())
    assert torch.equal(taken.bias, objective.classifier.bias.double())
    found.fit(*TRAIN)
    torch.testing.assert_close(found.weight, make_layer().weight.double())
    torch.testing.assert_close(found.bias, make_layer().bias.double())


def test_features_that_are_always_zero_change_no_logit():
    outputs, targets = linear_outputs(200, seed=0)
    dead = outputs.embedding.clone()
    dead[:, 3] = 0
    rule = GradNorm()
    rule.fit(Outputs(embedding=dead, logits=make_layer().double()(dead)), targets)
    torch.testing.assert_close(dead @ rule.weight.T + rule.bias, make_layer().double()(dead))
    torch.testing.assert_close(rule.weight[:, 3], torch.zeros(4, dtype=torch.float64))  # no test image is moved by it


def test_logits_that_are_not_linear_are_refused():
    with pytest.raises(UserError, match="'vim': the logits are no linear function of the embedding"):
        make_rule("vim").fit(Outputs(logits=TRAIN[0].logits.square(), embedding=TRAIN[0].embedding), TRAIN[1])
    with pytest.raises(UserError, match="'vim': 12 training images do not show how 12 features become logits"):
        make_rule("vim").fit(TRAIN[0][:12], TRAIN[1][:12])


def test_fdbd_is_that_of_pytorch_ood():
    from pytorch_ood import detector

    rule, oracle = FDBD(), detector.fDBD(None, make_layer())
    rule.fit(*TRAIN)
    oracle.fit_features(TRAIN[0].embedding)
    torch.testing.assert_close(
        rule.scores(TEST).knownness, -oracle.predict_features(TEST.embedding).double(), rtol=1e-4, atol=1e-5
    )


def test_gradnorm_is_the_gradient_of_the_last_layer():
    rule = GradNorm()
    rule.fit(*TRAIN)
    layer, found = make_layer().double().requires_grad_(True), rule.scores(TEST).knownness
    for features, value in zip(TEST.embedding, found, strict=True):
        loss = -torch.log_softmax(layer(features), dim=0).mean()
        (gradient,) = torch.autograd.grad(loss, layer.weight)
        assert value.item() == pytest.approx(gradient.abs().sum().item(), rel=1e-6)


def test_feature_norm_is_the_length():
    outputs = Outputs(embedding=torch.tensor([[3.0, 4.0], [0.0, 0.0]]), logits=torch.eye(2))
    scores = FeatureNorm().scores(outputs)
    assert scores.knownness.tolist() == [5.0, 0.0]
    assert scores.labels.tolist() == [0, 1]
