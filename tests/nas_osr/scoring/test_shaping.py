"""ReAct, ASH and SCALE against pytorch-ood, and on features that a ReLU would not let through."""

import pytest
import torch

from nas_osr.outputs import Outputs
from nas_osr.scoring import make_rule
from tests.nas_osr.scoring.linear_outputs import linear_outputs, make_layer

TRAIN, TEST = linear_outputs(200, seed=0), linear_outputs(90, seed=1)[0]


def pytorch_oods(name, share, variant):
    """The detector that a rule follows, over the same layer."""
    from pytorch_ood import detector

    layer = make_layer().double()
    parts = (None, lambda maps: layer(maps.flatten(1)))
    if name == "ash":
        return detector.ASH(*parts, variant=f"ash-{variant}", percentile=share)
    return {"react": detector.ReAct, "scale": detector.SCALE}[name](*parts, percentile=share)


@pytest.mark.parametrize("share", [0.5, 0.65, 0.9])
@pytest.mark.parametrize(("name", "variant"), [("react", ""), ("scale", ""), ("ash", "s"), ("ash", "b"), ("ash", "p")])
def test_scores_are_those_of_pytorch_ood(name, variant, share):
    rule, oracle = make_rule(name, {"share": share, **({"variant": variant} if variant else {})}), None
    rule.fit(*TRAIN)
    oracle = pytorch_oods(name, share, variant)
    oracle.fit_feature_maps(TRAIN[0].embedding[:, :, None, None], TRAIN[1])
    expected = -oracle.predict_feature_maps(TEST.embedding[:, :, None, None])
    scores = rule.scores(TEST)
    torch.testing.assert_close(scores.knownness, expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(scores.labels, TEST.logits.argmax(dim=1))


@pytest.mark.parametrize("name", ["ash", "scale"])
def test_negative_features_count_as_zero_in_the_sums(name):
    """One strong feature among many that are negative, and none: plain sums would give exp(-1.2), and exp(12)."""
    rule = make_rule(name, {"share": 0.9})
    rule.fit(*TRAIN)
    features = torch.full((2, 12), -0.2, dtype=torch.float64)
    features[0, 0] = 1.0
    torch.testing.assert_close(rule.sharpness(features), torch.full((2, 1), torch.e, dtype=torch.float64))
    outputs = Outputs(embedding=features, logits=make_layer().double()(features))
    assert rule.scores(outputs).knownness.isfinite().all()
