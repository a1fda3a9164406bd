"""Detectors of pytorch-ood as rules: scores, settings, state, and what is refused."""

import builtins

import pytest
import torch

from nas_osr.errors import UserError
from nas_osr.metrics.open_set import auroc
from nas_osr.scoring import make_rule
from nas_osr.scoring.bridge import detector_rule, supported
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
        ("Gram", {}, "unknown scoring rule"),
        ("KNN", {"j": 3}, "has no setting j; it has acceptance, k, normalize"),
        ("ViM", {}, "its settings are refused: .*'d'"),
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
