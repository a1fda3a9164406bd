"""Rules by name: construction, plug-ins, and which objective can feed which rule."""

import json
import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nas_osr.errors import UserError
from nas_osr.evaluation.judging import judge
from nas_osr.objectives.base import Objective
from nas_osr.outputs import Observed, Outputs
from nas_osr.scoring import RULES, check_rule, make_rule, rule_class, rules_for
from nas_osr.scoring.base import Scores, ScoringRule
from nas_osr.scoring.cap import CAP

PLUGIN = """
from nas_osr.scoring.base import Scores, ScoringRule

class Mine(ScoringRule):
    name = "mine"
    needs = frozenset({"logits"})

    def __init__(self, acceptance=0.95, power=2.0):
        super().__init__(acceptance)
        self.power = power

    def scores(self, outputs):
        return Scores(outputs.logits.double().amax(dim=1) ** self.power, outputs.logits.double())

class Silent(ScoringRule):
    name = "silent"
    needs = frozenset({"logits"})

value = 3
"""


class OnlyLogits(Objective):
    name = "only_logits"
    last_layer = "classifier"
    provides = frozenset({"logits"})


class Everything(Objective):
    name = "everything"
    last_layer = "classifier"
    provides = frozenset(Outputs.names())


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    (tmp_path / "rule_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "rule_plugin.Mine"
    sys.modules.pop("rule_plugin", None)


@pytest.mark.parametrize("name", RULES)
def test_every_rule_follows_the_interface(name):
    rule = make_rule(name, {"acceptance": 0.9})
    assert isinstance(rule, ScoringRule)
    assert rule.name == name
    assert rule.needs <= set(Outputs.names())
    assert rule.acceptance == 0.9
    assert rule.threshold is None
    learning = name not in ("msp", "mls", "sml", "energy", "gen", "feature_norm", "odin", "rotpred", "class_thresholds")
    assert rule.learns == learning
    assert rule.paper


def everything(size, seed, num_known=4):
    """Random outputs with every field, the logits linear in the embedding, and targets."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(size) % num_known
    points = 4 * torch.eye(num_known)[targets]
    fields = {name: points + torch.randn(size, num_known, generator=generator) for name in Outputs.names()}
    logits = 2 * fields["embedding"] - 0.1 * torch.arange(num_known)
    fields |= {"logits": logits, "latent_variance": fields["latent_variance"].exp()}
    layers = torch.stack([points, points + torch.randn(size, num_known, generator=generator)], dim=1)
    turns = -torch.rand(size, 4, generator=generator)
    return Observed(**fields, layers=layers, turns=turns), targets


@pytest.mark.parametrize("name", RULES)
def test_a_rule_reads_what_it_needs_and_nothing_else(name):
    """With those fields alone everything is as with all."""
    rule, bare = make_rule(name), make_rule(name)
    validation, targets = everything(80, seed=1)
    test, _ = everything(50, seed=2)

    def only_needed(outputs):
        return Observed(**{field: getattr(outputs, field) for field in rule.needs | rule.observes})

    rule.fit(*everything(160, seed=0))
    rule.set_threshold(validation, targets)
    bare.fit(only_needed(everything(160, seed=0)[0]), everything(160, seed=0)[1])
    bare.set_threshold(only_needed(validation), targets)
    assert bare.threshold == rule.threshold
    scores, alone = rule.scores(test), bare.scores(only_needed(test))
    assert scores.knownness.shape == (50,) and scores.class_scores.shape == (50, 4)
    assert scores.knownness.dtype == scores.class_scores.dtype == torch.float64
    # without logits, neighbours in the last map say which class it is
    for part in ("knownness",) if name == "knn_layers" else ("knownness", "class_scores", "labels"):
        assert torch.equal(getattr(alone, part), getattr(scores, part)), part


def fitted(name, **kinds):
    rule = make_rule(name, kinds)
    rule.fit(*everything(160, seed=0))
    rule.set_threshold(*everything(80, seed=1))
    return rule


@pytest.mark.parametrize("name", RULES)
def test_state_survives_a_checkpoint(name, tmp_path):
    rule, (test, _) = fitted(name), everything(50, seed=4)
    torch.save(rule.state_dict(), tmp_path / "rule.pt")
    other = make_rule(name)
    other.load_state_dict(torch.load(tmp_path / "rule.pt", weights_only=True))
    assert torch.equal(other.scores(test).knownness, rule.scores(test).knownness)
    assert torch.equal(other.decide(other.scores(test)), rule.decide(rule.scores(test)))


@pytest.mark.parametrize("name", RULES)
def test_a_rule_says_what_set_its_threshold(name):
    source = fitted(name).threshold_source()
    assert source["picker"] in ("quantile", "derivative", "probability")
    assert ("tau" in source) == name.startswith("nc_") and json.loads(json.dumps(source)) == source
    assert ("acceptance" in source) == (source["picker"] == "quantile" and not name.startswith("nc_"))


@pytest.mark.parametrize("name", RULES)
def test_what_is_less_known_than_the_threshold_is_unknown(name):
    rule, (test, _) = fitted(name), everything(200, seed=2)
    scores = rule.scores(test)
    assert torch.equal(scores.labels, scores.class_scores.argmax(dim=1))
    expected = torch.where(scores.knownness < rule.threshold, 4, scores.labels)
    assert 0 < (expected == 4).sum() < 200
    assert torch.equal(rule.decide(scores), expected)


class LargestTensor(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for part in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(part, torch.Tensor):
                self.elements = max(self.elements, part.numel())
        return result


@pytest.mark.parametrize("name", RULES)
def test_memory_grows_with_the_images_not_with_their_product(name):
    """1,000 training images and 500 queries of 4 dimensions: no table of 500 x 1,000, nor of 500 x 4 x 4."""
    blocks = {"block_size": 50, "k": 10}
    rule = make_rule(name, blocks if name in ("neighbours", "knn", "knn_layers", "nnguide") else {})
    with LargestTensor() as fit:
        rule.fit(*everything(1000, seed=0))
    with LargestTensor() as rest:
        rule.set_threshold(*everything(500, seed=1))
        judge(rule, everything(500, seed=2)[0])
    assert fit.elements <= 1000 * 8
    assert 500 * 4 <= rest.elements <= 1000 * 4 + 500 * 8


def test_a_rule_is_one_method_and_judging_asks_it_once():
    class Margin(ScoringRule):
        name = "margin"
        needs = frozenset({"logits"})
        asked = 0

        def scores(self, outputs):
            self.asked += 1
            logits = outputs.logits.double()
            best, second = logits.topk(2, dim=1).values.unbind(dim=1)
            return Scores(best - second, logits)

    rule, (test, _) = Margin(), everything(50, seed=2)
    rule.set_threshold(*everything(80, seed=1))
    rule.asked = 0
    judgements = judge(rule, test)
    assert rule.asked == 1
    best = test.logits.double().sort(dim=1).values
    assert judgements.knownness.tolist() == (best[:, -1] - best[:, -2]).tolist()
    assert judgements.closed_set_label.tolist() == test.logits.argmax(1).tolist()
    assert judgements.predicted_label.tolist() == rule.decide(rule.scores(test)).tolist()


def test_a_rule_without_scores_is_refused(plugin):
    with pytest.raises(UserError, match=r"scoring rule 'rule_plugin.Silent' has no method scores\(outputs\)"):
        make_rule("rule_plugin.Silent")


def test_importing_the_names_imports_no_torch():
    code = "import sys, nas_osr.scoring; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unknown_name_lists_the_valid_ones():
    with pytest.raises(UserError, match=f"'nearest'.*{', '.join(RULES)} or"):
        make_rule("nearest")


def test_unknown_setting_lists_the_valid_ones():
    with pytest.raises(UserError, match="'msp' has no setting temperature; it has acceptance"):
        make_rule("msp", {"temperature": 2.0})


@pytest.mark.parametrize("value", [0.0, 1.0, -1, float("nan"), "high", None, True])
def test_impossible_acceptance_is_refused(value):
    with pytest.raises(UserError, match="'cap': acceptance"):
        make_rule("cap", {"acceptance": value})


def test_plugin_by_dotted_path(plugin):
    rule = make_rule(plugin, {"power": 3.0})
    assert rule.name == "mine"
    assert rule.power == 3.0


def test_names_from_files_import_nothing(plugin):
    with pytest.raises(UserError, match="--plugin rule_plugin"):
        rule_class(plugin, import_plugins=False)
    assert "rule_plugin" not in sys.modules
    rule_class(plugin)
    assert rule_class(plugin, import_plugins=False).name == "mine"


@pytest.mark.parametrize(
    "name", ["rule_plugin.value", "rule_plugin.absent", "no_such_package.Rule", "rule_plugin.deep.Rule"]
)
def test_what_is_no_rule_is_refused(plugin, name):
    with pytest.raises(UserError):
        rule_class(name)


def test_an_objective_must_provide_what_the_rule_needs():
    check_rule(CAP, Everything)
    check_rule(rule_class("energy"), OnlyLogits)
    fed = rules_for(OnlyLogits)
    message = f"'cap' needs class_reconstruction_error, latent_mean, .*'only_logits'.* it feeds: {', '.join(fed)}$"
    with pytest.raises(UserError, match=message):
        check_rule(CAP, OnlyLogits)
    assert {"cac", "msp", "mls", "energy"} <= set(fed)
    assert fed == [name for name in RULES if rule_class(name).needs <= {"logits"} and name != "rotpred"]
    assert rules_for(Everything) == [name for name in RULES if name != "rotpred"]
    assert rules_for(Everything, "rotpred") == list(RULES)
    for side_task in ("none", "lorot"):
        with pytest.raises(UserError, match="'rotpred' needs a network that has learned rotpred beside its objective"):
            check_rule(rule_class("rotpred"), Everything, side_task)
    check_rule(rule_class("rotpred"), OnlyLogits, "rotpred")


def test_a_rule_on_the_last_layer_needs_one():
    class Bent(Everything):
        name = "bent"
        last_layer = ""

    assert set(rules_for(Everything)) - set(rules_for(Bent)) == {"vim", "fdbd", "gradnorm", "react", "ash", "scale"}
    with pytest.raises(UserError, match="'vim' needs logits that are linear in the embedding, which objective 'bent'"):
        check_rule(rule_class("vim"), Bent)
