"""Detectors of pytorch-ood as rules: scores, settings, state, and what is refused."""

import builtins

import pytest
import torch

from nas_osr.errors import UserError
from nas_osr.metrics.open_set import auroc
from nas_osr.outputs import Outputs
from nas_osr.scoring import BRIDGE, RULES, make_rule, rule_class
from nas_osr.scoring.bridge import detector_rule, supported
from nas_osr.scoring.detectors import DETECTORS, REFUSED
from tests.nas_osr.scoring.linear_outputs import linear_outputs, make_layer

TRAIN, VALIDATION, TEST = linear_outputs(200, seed=0), linear_outputs(80, seed=1), linear_outputs(90, seed=2)[0]
SETTINGS = {"ViM": {"d": 6}, "DICE": {"p": 0.7}}


@pytest.mark.parametrize("name", supported())
def test_every_detector_is_a_rule(name, tmp_path):
    """It finds unknown images, accepts what it should, and is the same after a checkpoint."""
    settings = SETTINGS.get(name, {})
    rule = make_rule(f"pytorch_ood.{name}", settings)
    rule.fit(*TRAIN)
    rule.set_threshold(*VALIDATION)
    known, unknown = rule.scores(TEST), rule.scores(linear_outputs(90, seed=3, known=False)[0])
    ranking = torch.cat([known.ranking, unknown.ranking]).numpy()
    assert auroc(ranking, (torch.arange(180) >= 90).numpy()) > 0.8
    assert 0.85 < (rule.decide(known) < 4).double().mean() <= 1
    assert torch.equal(known.labels, TEST.logits.argmax(dim=1))
    torch.save(rule.state_dict(), tmp_path / "rule.pt")
    other = make_rule(f"pytorch_ood.{name}", settings)
    other.load_state_dict(torch.load(tmp_path / "rule.pt", weights_only=True))
    assert torch.equal(other.scores(TEST).knownness, known.knownness)


def test_it_says_what_the_detector_says():
    from pytorch_ood.detector import SHE

    rule, oracle = make_rule("pytorch_ood.SHE"), SHE(None, make_layer())
    rule.fit(*TRAIN)
    oracle.fit_features(TRAIN[0].embedding.float(), TRAIN[1])
    with torch.inference_mode():
        found = rule.scores(TEST).knownness
    torch.testing.assert_close(found, -oracle.predict_features(TEST.embedding.float()).double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("OpenMax", {}, "OpenMax is not offered: .*: use openmax"),
        ("Nonsense", {}, "unknown scoring rule 'pytorch_ood.Nonsense': of pytorch-ood's detectors, .* SHE"),
        ("Vim", {}, r"unknown scoring rule 'pytorch_ood.Vim': .*; did you mean pytorch_ood\.ViM\?$"),
        ("knn", {}, r"; did you mean pytorch_ood\.KNN\?$"),
        ("GradNorm", {}, "GradNorm is not offered: .*: use gradnorm"),
        ("ODIN", {}, "ODIN is not offered: it changes the images: use odin"),
        ("odin_preprocessing", {}, "is not offered: it reads neither logits nor features"),
        ("KNN", {"j": 3}, "has no setting j; it has acceptance, k, normalize"),
        ("ViM", {}, "'pytorch_ood.ViM' has no default for d: give --rule_config.d VALUE"),
        ("DICE", {}, "'pytorch_ood.DICE' has no default for p: give --rule_config.p VALUE"),
        ("DICE", {"p": "many"}, "'pytorch_ood.DICE': its settings are refused: "),
        ("ReAct", {"percentile": 70}, "its settings are refused: .*fraction"),
        ("SHE", {"acceptance": 2}, "acceptance must lie strictly between 0 and 1"),
    ],
)
def test_what_cannot_be_is_one_line(name, settings, message):
    with pytest.raises(UserError, match=message):
        make_rule(f"pytorch_ood.{name}", settings)


def test_what_cannot_be_fitted_is_one_line():
    with pytest.raises(UserError, match="'pytorch_ood.KNN': it cannot be fitted: k=50 exceeds"):
        make_rule("pytorch_ood.KNN").fit(TRAIN[0][:20], TRAIN[1][:20])


def test_what_cannot_judge_is_one_line():
    rule = make_rule("pytorch_ood.GEN", {"M": 3, "gamma": "large"})
    with pytest.raises(UserError, match="'pytorch_ood.GEN': it cannot judge: "):
        rule.scores(TEST)


@pytest.mark.parametrize("name", ["GMM", "KNN", "Mahalanobis", "RMD"])
def test_logits_are_asked_for_only_where_they_are_read(name, tmp_path):
    """Without any, knownness is the same, and the class is that of the nearest training images."""
    with_logits, rule = make_rule(f"pytorch_ood.{name}"), make_rule(f"pytorch_ood.{name}")
    assert rule.needs == {"embedding"}
    bare = [Outputs(embedding=outputs.embedding) for outputs in (TRAIN[0], VALIDATION[0], TEST)]
    with_logits.fit(*TRAIN)
    rule.fit(bare[0], TRAIN[1])
    rule.set_threshold(bare[1], VALIDATION[1])
    found = rule.scores(bare[2])
    assert torch.equal(found.knownness, with_logits.scores(TEST).knownness)
    neighbours = make_rule("neighbours")
    neighbours.fit(bare[0], TRAIN[1])
    torch.testing.assert_close(found.class_scores, neighbours.scores(bare[2]).class_scores, rtol=1e-5, atol=1e-5)
    torch.save(rule.state_dict(), tmp_path / "rule.pt")
    other = make_rule(f"pytorch_ood.{name}")
    other.load_state_dict(torch.load(tmp_path / "rule.pt", weights_only=True))
    assert torch.equal(other.scores(bare[2]).class_scores, found.class_scores)


def test_what_is_listed_without_the_package_is_what_it_says():
    import pytorch_ood.detector as detectors

    kinds = {name for name in detectors.__all__ if isinstance(getattr(detectors, name), type)}
    assert kinds == DETECTORS.keys() | REFUSED.keys() and DETECTORS.keys() == supported().keys()
    assert {name: rule_class(f"{BRIDGE}{name}").paper for name in DETECTORS} == DETECTORS
    for name, reason in REFUSED.items():
        with pytest.raises(UserError, match=f"{name} is not offered: {reason}"):
            make_rule(f"{BRIDGE}{name}")
        assert all(word in RULES for word in reason.replace(",", "").replace(";", "").split() if "_" in word)


def test_without_the_package(monkeypatch):
    real = builtins.__import__

    def refuse(name, *arguments, **more):
        if name.startswith("pytorch_ood"):
            raise ModuleNotFoundError("No module named 'pytorch_ood'", name="pytorch_ood")
        return real(name, *arguments, **more)

    detector_rule.cache_clear()
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=r"need pytorch_ood: pip install nas-osr\[ood\]"):
        make_rule("pytorch_ood.Entropy")
    with pytest.raises(UserError, match="not offered: it changes the images: use odin"):
        make_rule("pytorch_ood.ODIN")
