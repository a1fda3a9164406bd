"""ODIN against pytorch-ood's own gradient step, from inside an inference without gradients."""

import pytest
import torch

import nas_osr
from nas_osr.data.dataset import LabelledImages
from nas_osr.evaluation.judging import collect_for
from nas_osr.outputs import Outputs
from nas_osr.runs.run_folder import RunFolder
from nas_osr.scoring import make_rule


def make_network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.GELU(), torch.nn.Flatten(), torch.nn.LazyLinear(3))


@pytest.fixture
def images():
    pixels = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return LabelledImages(pixels, torch.zeros(40, dtype=torch.long), torch.zeros(40, dtype=torch.long))


@pytest.mark.parametrize("settings", [{}, {"temperature": 10.0, "epsilon": 0.02}, {"epsilon": 0.0}])
def test_scores_are_those_of_pytorch_ood(settings, images):
    from pytorch_ood.detector import ODIN

    network, asked = make_network(), []
    network(images.images[:1].float())

    def infer(batch):
        asked.append(len(batch))
        return Outputs(logits=network(batch))

    rules = [make_rule("mls"), make_rule("odin", settings), make_rule("msp")]
    plain, odin = collect_for(rules, infer, images)
    assert plain[1] == [rules[0], rules[2]] and odin[1] == [rules[1]]
    assert asked == [40, 40, 40]  # once for all others, and twice
    assert not any(parameter.grad is not None for parameter in network.parameters())
    assert not odin[0].logits.requires_grad
    oracle = ODIN(network, eps=settings.get("epsilon", 0.0014), temperature=settings.get("temperature", 1000.0))
    expected = -oracle.predict(images.images.float() / 255)
    torch.testing.assert_close(rules[1].scores(odin[0]).knownness.exp(), expected.double(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("rule", ["odin", "relative_mahalanobis"])
def test_a_search_can_be_judged_by_it(rule, tmp_path):
    """Through the supernet, whose weights get no gradient of it: the losses are those of a search by another rule."""
    common = {
        "protocol": "digits", "preset": "tiny", "limit_per_class": 20, "layers": 3, "epochs": 2, "device": "cpu",
        "threads": 1, "quiet": True, "objective": "cross_entropy", "strategy_config": {"warmup_epochs": 1},
    }  # fmt: skip
    losses = []
    for name in (rule, "mls"):
        found = nas_osr.search(**common, rule=name, out=str(tmp_path / name))
        assert 0 <= found["f1"] <= 1
        losses.append([record["losses"] for record in RunFolder.open(tmp_path / name).read_history()])
    assert losses[0] == losses[1]
