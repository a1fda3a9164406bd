"""Samples of a supernet's choices: gradients and distributions against their formulas."""

from __future__ import annotations

from dataclasses import asdict
from math import comb
from typing import Any

import pytest
import torch
from torch import Tensor

from nas_osr.search_spaces.space import Space
from nas_osr.search_spaces.spaces import Wide
from nas_osr.search_spaces.supernet import Supernet, build_supernet
from nas_osr.strategies.bilevel.levels import mean_entropy
from nas_osr.strategies.bilevel.samplers import SAMPLERS, HardGumbel, set_sampler

PAPER, WIDE = Space(4, 16), Space(**asdict(Wide(4, 8)))


def sampled(name: str, space: Space = PAPER) -> Supernet:
    torch.manual_seed(0)
    net = build_supernet(space, 1, (0.5,), (0.25,))
    for logits in net.architecture_parameters.values():
        torch.nn.init.normal_(logits)
    set_sampler(net, name)
    return net.train()


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_gdas_takes_the_gradient_of_the_soft_sample_through_the_chosen_operation_alone(temperature: float) -> None:
    """For an upstream gradient g it is <g, o_k> y_k (1[j = k] - y_j) / T, with y the soft sample of eq. 6."""
    net = sampled("gdas")
    assert isinstance(net.draw, HardGumbel)
    net.draw.set_temperature(temperature)
    layer, x = net.network.halve["1_0"], torch.rand(2, 16, 8, 8)
    logits, weigher = net.architecture_parameters["alpha_1_0"], net.weighers["alpha_1_0"]
    torch.manual_seed(1)
    net.draw(net)
    # the noise again: choices draw in the order of their labels
    torch.manual_seed(1)
    noise = {label: -torch.empty(len(p)).exponential_().log() for label, p in net.architecture_parameters.items()}
    y = torch.softmax((torch.log_softmax(logits, 0) + noise["alpha_1_0"]) / temperature, 0).detach()
    k = weigher.chosen
    assert k == int(y.argmax())
    calls: list[int] = []
    for place, candidate in enumerate(layer):
        candidate.register_forward_hook(lambda *_, place=place: calls.append(place))
    output = layer(x)
    assert calls == [k]
    made = list(layer)[k](x).detach()
    g = torch.randn_like(made)
    torch.testing.assert_close(output, made)
    (found,) = torch.autograd.grad((output * g).sum(), logits)
    expected = (g * made).sum() * y[k] * (torch.nn.functional.one_hot(torch.tensor(k), len(y)) - y) / temperature
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_gdas_chooses_by_the_probabilities() -> None:
    net = sampled("gdas")
    assert net.draw is not None
    counts = torch.zeros(3)
    for _ in range(2000):
        net.draw(net)
        counts[net.weighers["alpha_2_1"].chosen or 0] += 1
    p = torch.tensor(net.alphas()[2, 1])
    assert torch.allclose(counts / 2000, p.float(), atol=4 * 0.5 / 2000**0.5)


@pytest.mark.parametrize("space", [PAPER, WIDE], ids=["paper", "wide"])
def test_gdas_evaluates_one_path_and_judges_the_most_probable_one(space: Space) -> None:
    net = sampled("gdas", space)
    calls: list[Any] = []
    for forms in (net.network.keep, net.network.halve):
        for form in forms.values():
            form.register_forward_hook(lambda *_: calls.append(1))
    joined = 1 if space.two_inputs else 0
    net(torch.rand(2, 1, 32, 32))
    assert len(calls) == space.layers or joined
    net.eval()
    net(torch.rand(2, 1, 32, 32))
    none = space.operations.index("none") if "none" in space.operations else None
    for (layer, scale), alpha in net.alphas().items():
        best = max((place for place in range(len(alpha)) if place != none), key=lambda place: alpha[place])
        assert net.weighers[f"alpha_{layer}_{scale}"].chosen == best


def test_drnas_samples_have_the_dirichlet_mean() -> None:
    """(elu(logit) + 1) over their sum, of paths times the prior; and what is reported is that mean."""
    net = sampled("drnas")
    assert net.draw is not None
    draws: dict[str, list[Tensor]] = {"alpha_1_0": [], "beta_3_2": []}
    for _ in range(4000):
        net.draw(net)
        for label, found in draws.items():
            drawn = net.weighers[label].drawn
            assert drawn is not None
            found.append(drawn.detach())
    for label, found in draws.items():
        logits = net.architecture_parameters[label].detach()
        c = torch.where(logits > 0, logits + 1, logits.exp())
        if label.startswith("beta"):
            paths = torch.tensor([comb(2, 1), comb(2, 2)])  # that reach the finer and the same scale
            c = c * paths * 2 / paths.sum()
        samples, mean = torch.stack(found), c / c.sum()
        torch.testing.assert_close(samples.sum(1), torch.ones(4000))
        torch.testing.assert_close(samples.mean(0), mean, atol=0.02, rtol=0)
        variance = mean * (1 - mean) / (c.sum() + 1)
        torch.testing.assert_close(samples.var(0), variance, atol=0.01, rtol=0.1)
        reported = net.alphas()[1, 0] if label.startswith("alpha") else net.betas()[3, 2]
        torch.testing.assert_close(torch.tensor(reported), mean)


def test_drnas_gradients_are_finite_far_out() -> None:
    net = sampled("drnas")
    net.set_temperature(0.1)
    for logits in net.architecture_parameters.values():
        torch.nn.init.uniform_(logits, -8, 8)
    net(torch.rand(2, 1, 32, 32)).branches[2].square().mean().backward()
    gradients = [logits.grad for logits in net.architecture_parameters.values() if logits.grad is not None]
    assert gradients and all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("name", SAMPLERS)
def test_all_paths_start_equal_and_judging_draws_nothing(name: str) -> None:
    net = build_supernet(PAPER, 1, (0.5,), (0.25,))
    set_sampler(net, name)
    assert all(alpha == pytest.approx((1 / 3,) * 3) for alpha in net.alphas().values())
    assert net.betas()[3, 2] == pytest.approx((2 / 3, 1 / 3))
    before = torch.get_rng_state()
    net.eval()(torch.zeros(2, 1, 32, 32))
    assert torch.equal(before, torch.get_rng_state())


def test_mean_entropy_is_one_at_first_and_falls_with_its_gradient() -> None:
    net = build_supernet(PAPER, 1, (0.5,), (0.25,))
    assert float(mean_entropy(net).detach()) == pytest.approx(1)
    with torch.no_grad():
        for logits in net.architecture_parameters.values():
            logits.copy_(torch.linspace(0, 1, len(logits)))
    p = torch.softmax(torch.linspace(0, 1, 3), 0)
    expected = float(torch.distributions.Categorical(p).entropy() / torch.tensor(3.0).log())
    assert float(mean_entropy(net).detach()) == pytest.approx(expected)
    mean_entropy(net).backward()
    gradient = net.architecture_parameters["alpha_1_0"].grad
    assert gradient is not None and gradient[2] < 0 < gradient[0]  # descent strengthens the strongest
