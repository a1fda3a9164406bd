"""ViM against pytorch-ood, and what lies outside the subspace of known images."""

import pytest
import torch

from nas_osr.errors import UserError
from nas_osr.outputs import Outputs
from nas_osr.scoring import make_rule
from tests.nas_osr.scoring.linear_outputs import linear_outputs, make_layer


@pytest.mark.parametrize("dimension", [None, 3])
def test_scores_are_those_of_pytorch_ood(dimension):
    from pytorch_ood.detector import ViM

    (train, targets), (test, _) = linear_outputs(400, seed=0), linear_outputs(90, seed=1)
    rule = make_rule("vim", {"dimension": dimension})
    rule.fit(train, targets)
    layer = make_layer()
    oracle = ViM(None, d=dimension or 6, w=layer.weight, b=layer.bias)
    oracle.fit_features(train.embedding, targets)
    found, expected = rule.scores(test).knownness, -oracle.predict_features(test.embedding).double()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_features_outside_the_subspace_are_less_known_at_equal_logits():
    train, targets = linear_outputs(400, seed=0)
    inside = train.embedding * (torch.arange(12) < 6)  # in six directions alone
    layer = make_layer().double()
    noise = 1e-3 * torch.randn(400, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rule = make_rule("vim", {"dimension": 8})  # the six, and up to two towards the origin
    rule.fit(Outputs(embedding=inside + noise, logits=layer(inside + noise)), targets)
    away = torch.linalg.svd(layer.weight).Vh[-1]  # changes no logit
    moved = inside[:5] + away
    torch.testing.assert_close(layer(moved), layer(inside[:5]))
    logits = layer(inside[:5])
    scores = [rule.scores(Outputs(embedding=features, logits=logits)).knownness for features in (inside[:5], moved)]
    assert (scores[1] < scores[0] - 1).all()


def test_nothing_outside_leaves_energy_and_says_so(caplog):
    train, targets = linear_outputs(400, seed=0)
    flat = torch.zeros_like(train.embedding)
    flat[:, 0] = train.embedding[:, 0]
    logits = flat[:, :1] * torch.tensor([1.0, -1.0, 0.5, 2.0], dtype=torch.float64)
    rule = make_rule("vim")
    rule.fit(Outputs(embedding=flat, logits=logits), targets)
    assert "it is energy alone" in caplog.text
    found = rule.scores(Outputs(embedding=flat, logits=logits)).knownness
    torch.testing.assert_close(found, torch.logsumexp(logits, dim=1))


def test_a_subspace_of_all_directions_is_refused():
    with pytest.raises(UserError, match="'vim': dimension must be under 12"):
        make_rule("vim", {"dimension": 12}).fit(*linear_outputs(100, seed=0))
