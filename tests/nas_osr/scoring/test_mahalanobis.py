"""Mahalanobis distances, plain and relative, against pytorch-ood, and what the background mends."""

import pytest
import torch

from nas_osr.errors import UserError
from nas_osr.metrics.open_set import auroc
from nas_osr.outputs import Outputs
from nas_osr.scoring import make_rule
from tests.nas_osr.scoring.linear_outputs import linear_outputs

NAMES = ("mahalanobis", "relative_mahalanobis")


@pytest.mark.parametrize("name", NAMES)
def test_distances_are_those_of_pytorch_ood(name):
    from pytorch_ood.detector import RMD, Mahalanobis

    (train, targets), (test, _) = linear_outputs(400, seed=0), linear_outputs(90, seed=1)
    rule, oracle = make_rule(name), {"mahalanobis": Mahalanobis, "relative_mahalanobis": RMD}[name](None)
    rule.fit(train, targets)
    oracle.fit_features(train.embedding.float(), targets)  # its means are float32
    scores, outliers = rule.scores(test), oracle.predict_features(test.embedding.float()).double()
    factor = scores.knownness / -outliers  # its covariances are sums over the images, or means
    torch.testing.assert_close(factor, factor.mean().expand_as(factor), rtol=1e-3, atol=0)
    assert torch.equal(scores.knownness, scores.class_scores.amax(dim=1))


def test_the_relative_distance_finds_unknown_images_that_are_simpler_than_known_ones():
    """Ten directions that tell no class apart, in which unknown images vary less; two in which they are of no class."""
    generator = torch.Generator().manual_seed(0)

    def images(size, known):
        targets = torch.arange(size) % 2
        side = (2.0 * targets - 1)[:, None] * known
        apart = 3 * torch.cat([side, -side], dim=1) + torch.randn(size, 2, generator=generator)
        return torch.cat([apart, (1 if known else 0.3) * torch.randn(size, 10, generator=generator)], dim=1), targets

    train, targets = images(1000, True)
    test = torch.cat([images(500, True)[0], images(500, False)[0]])
    reached = {}
    for name in NAMES:
        rule = make_rule(name)
        rule.fit(Outputs(embedding=train), targets)
        reached[name] = auroc(rule.scores(Outputs(embedding=test)).ranking.numpy(), (torch.arange(1000) >= 500).numpy())
    assert reached["mahalanobis"] < 0.8 < 0.95 < reached["relative_mahalanobis"]


def test_a_class_without_images_is_never_the_label():
    train, targets = linear_outputs(200, seed=0)
    rule = make_rule("mahalanobis")
    rule.fit(train[targets != 2], targets[targets != 2])
    assert set(rule.scores(train).labels.tolist()) == {0, 1, 3}


def test_embeddings_that_are_not_numbers_are_refused():
    broken = Outputs(embedding=torch.full((4, 3), float("nan")))
    with pytest.raises(UserError, match="'mahalanobis': embeddings of known training images are not numbers"):
        make_rule("mahalanobis").fit(broken, torch.tensor([0, 1, 0, 1]))
    with pytest.raises(UserError, match="no known training image"):
        make_rule("mahalanobis").fit(broken[:0], torch.zeros(0, dtype=torch.long))
