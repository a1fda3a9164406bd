"""Rules by name: construction, plug-ins, and which objective can feed which rule."""

import subprocess
import sys

import pytest
import torch

from nas_osr.errors import UserError
from nas_osr.objectives.base import Objective
from nas_osr.outputs import Outputs
from nas_osr.scoring import RULES, check_rule, make_rule, rule_class, rules_for
from nas_osr.scoring.base import ScoringRule
from nas_osr.scoring.cap import CAP

PLUGIN = """
from nas_osr.scoring.base import ScoringRule

class Mine(ScoringRule):
    name = "mine"
    needs = frozenset({"logits"})

    def __init__(self, acceptance=0.95, power=2.0):
        super().__init__(acceptance)
        self.power = power

value = 3
"""


class OnlyLogits(Objective):
    name = "only_logits"
    provides = frozenset({"logits"})


class Everything(Objective):
    name = "everything"
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


def everything(size, seed, num_known=4):
    """Random outputs with every field, and targets."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(size) % num_known
    points = 4 * torch.eye(num_known)[targets]
    fields = {name: points + torch.randn(size, num_known, generator=generator) for name in Outputs.names()}
    return Outputs(**{**fields, "latent_variance": fields["latent_variance"].exp()}), targets


@pytest.mark.parametrize("name", RULES)
def test_a_rule_reads_what_it_needs_and_nothing_else(name):
    """With those fields alone everything is as with all; a class score of the label is the largest."""
    rule, bare = make_rule(name), make_rule(name)
    validation, targets = everything(80, seed=1)
    test, _ = everything(50, seed=2)

    def only_needed(outputs):
        return Outputs(**{field: getattr(outputs, field) for field in rule.needs})

    rule.fit(*everything(160, seed=0))
    rule.set_threshold(validation, targets)
    bare.fit(only_needed(everything(160, seed=0)[0]), everything(160, seed=0)[1])
    bare.set_threshold(only_needed(validation), targets)
    assert bare.threshold == rule.threshold
    scores = rule.class_scores(test)
    assert scores.shape == (50, 4)
    assert scores.dtype == torch.float64
    assert torch.equal(rule.labels(test), scores.argmax(dim=1))
    for method in ("class_scores", "labels", "knownness", "predict"):
        assert torch.equal(getattr(bare, method)(only_needed(test)), getattr(rule, method)(test)), method
    assert bare.count_known(only_needed(test)) == 4


def test_without_logits_a_rule_has_its_own_class_scores():
    rule = make_rule("mls")
    with pytest.raises(RuntimeError, match="'mls' needs logits, or class_scores of its own"):
        rule.labels(Outputs(embedding=torch.zeros(2, 3)))
    with pytest.raises(RuntimeError, match="'mls': without logits, fit comes first and sets num_known"):
        rule.count_known(Outputs(embedding=torch.zeros(2, 3)))


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
    assert fed == [name for name in RULES if rule_class(name).needs == {"logits"}]
    assert rules_for(Everything) == list(RULES)
