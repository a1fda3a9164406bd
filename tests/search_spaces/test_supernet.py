"""The supernet: its structure, a plain-torch oracle, and the discrete network as its one-hot case."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nas_osr.errors import UserError
from nas_osr.search_spaces.architectures.architecture import Architecture, Branch
from nas_osr.search_spaces.architectures.sampling import sample_architecture
from nas_osr.search_spaces.encoder import feature_shapes
from nas_osr.search_spaces.network import DiscreteNetwork, inherit_weights
from nas_osr.search_spaces.space import Space, all_paths
from nas_osr.search_spaces.supernet import Supernet, build_supernet

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


class Separable(nn.Sequential):
    """An operation whose name has dots in it."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        depthwise = nn.Conv2d(channels_in, channels_in, 3, stride, padding=1, groups=channels_in)
        super().__init__(depthwise, nn.Conv2d(channels_in, channels_out, 1), nn.BatchNorm2d(channels_out))


@pytest.fixture(
    scope="module",
    params=[
        Space(4, 16),
        Space(6, 16, stem="pooled"),
        Space(5, 16, branches=(0, 1, 2)),
        Space(4, 16, ("skip", f"{__name__}.Separable")),
    ],
    ids=["L4", "L6", "branches", "plug-in"],
)
def supernet(request: pytest.FixtureRequest) -> Supernet:
    """A supernet with random alphas, betas and BatchNorm statistics."""
    torch.manual_seed(0)
    net = build_supernet(request.param, 3, MEAN, STD)
    for logits in net.architecture_parameters.values():
        nn.init.normal_(logits)
    net.train()(torch.rand(16, 3, 32, 32))
    return net.eval()


def plain_forward(net: Supernet, images: Tensor) -> dict[int, Tensor]:
    """The branches by the definition, node by node: mix the inputs, evaluate each form once (NAS-OSR, eq. 2)."""
    parameters, config = net.architecture_parameters, net.space
    mean, std = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)
    stem = net.network.stem((images - mean) / std)[1]

    def cell(layer: int, scale: int, form: str, x: Tensor) -> Tensor:
        alpha = parameters[f"alpha_{layer}_{scale}"].softmax(0)
        forms = (net.network.halve if form == "halve" else net.network.keep)[f"{layer}_{scale}"]
        return sum(weight * form(x) for weight, form in zip(alpha, forms, strict=True))  # type: ignore[return-value]

    def node(layer: int, scale: int) -> Tensor:
        """What arrives at the cell of this layer and scale, recursively from the stem."""
        if layer == 0:
            return stem
        sources = []
        if scale > 0 and scale - 1 <= layer - 1:
            sources.append(cell(layer - 1, scale - 1, "halve", node(layer - 1, scale - 1)))
        if scale <= layer - 1:
            sources.append(cell(layer - 1, scale, "keep", node(layer - 1, scale)))
        if len(sources) == 1:
            return sources[0]
        beta = parameters[f"beta_{layer}_{scale}"].softmax(0)
        return beta[0] * sources[0] + beta[1] * sources[1]

    last = config.layers - 1
    return {scale: cell(last, scale, "keep", node(last, scale)) for scale in config.branches}


def test_supernet_equals_plain_torch(supernet: Supernet) -> None:
    images = torch.rand(2, 3, 32, 32)
    ours, plain = supernet(images).branches, plain_forward(supernet, images)
    assert ours.keys() == plain.keys()
    for scale, map_ in plain.items():
        torch.testing.assert_close(ours[scale], map_, rtol=1e-4, atol=1e-4)

    architecture = list(supernet.architecture_parameters.values())
    weights = [next(supernet.network.stem.parameters())]
    pick = torch.randn_like(plain[2])
    expected = torch.autograd.grad((plain[2] * pick).sum(), architecture + weights, allow_unused=True)
    found = torch.autograd.grad((ours[2] * pick).sum(), architecture + weights, allow_unused=True)
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def choose(net: Supernet, architecture: Architecture) -> None:
    """One-hot alphas and betas for an architecture (a difference of 200 is one-hot in float32)."""
    with torch.no_grad():
        for branch in architecture.branches.values():
            for layer, (scale, operation) in enumerate(zip(branch.path, branch.operations, strict=True)):
                alpha = net.architecture_parameters[f"alpha_{layer}_{scale}"]
                alpha.fill_(-100.0)
                alpha[net.space.operations.index(operation)] = 100.0
                beta = net.architecture_parameters.get(f"beta_{layer}_{scale}")
                if beta is not None:
                    finer = branch.path[layer - 1] < scale
                    beta.copy_(torch.tensor([100.0, -100.0] if finer else [-100.0, 100.0]))


@pytest.mark.parametrize("seed", range(4))
def test_discrete_network_equals_one_hot_supernet(supernet: Supernet, seed: int) -> None:
    architecture = sample_architecture(supernet.space, seed)
    before = {label: logits.detach().clone() for label, logits in supernet.architecture_parameters.items()}
    choose(supernet, architecture)
    network = DiscreteNetwork(architecture, 3, MEAN, STD).eval()
    inherit_weights(network, supernet, architecture)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        ours, mixed = network(images).branches, supernet(images).branches
        for label, logits in before.items():
            supernet.architecture_parameters[label].copy_(logits)
    assert ours.keys() == mixed.keys()
    for scale in mixed:
        torch.testing.assert_close(ours[scale], mixed[scale], rtol=1e-5, atol=1e-5)


def test_only_useful_cells_are_built() -> None:
    """Every built form lies on some path to the 1/16 branch, and every such form is built."""
    net = build_supernet(Space(layers=6, channels=16), 3, MEAN, STD)
    on_paths = set()
    for path in all_paths(6, 2):
        for layer, (here, there) in enumerate(zip(path, (*path[1:], path[-1]), strict=True)):
            on_paths.add((f"{layer}_{here}", there > here))
    built = {(key, False) for key in net.network.keep} | {(key, True) for key in net.network.halve}
    assert built == on_paths
    # one mixed operation a form, and each evaluated once in a forward
    calls: list[str] = []
    for forms in (net.network.keep, net.network.halve):
        for key, form in forms.items():
            form.register_forward_hook(lambda *_, key=key: calls.append(key))
    net(torch.rand(2, 3, 32, 32))
    assert len(calls) == len(built)


def test_forms_of_a_cell_share_one_alpha_and_all_choices_start_equal() -> None:
    net = build_supernet(Space(layers=6, channels=16), 3, MEAN, STD)
    assert net.network.keep["1_0"]._arch_alpha is net.network.halve["1_0"]._arch_alpha
    for probabilities in (*net.alphas().values(), *net.betas().values()):
        assert len(set(probabilities)) == 1 or probabilities in ((1.0, 0.0), (0.0, 1.0))
    assert list(net.architecture_parameters) == sorted(net.architecture_parameters)
    weights = {id(parameter) for parameter in net.weight_parameters()}
    assert not weights & {id(logits) for logits in net.architecture_parameters.values()}


@pytest.mark.parametrize(("channels", "size"), [(1, 32), (3, 64)])
def test_feature_shapes_for_other_images(channels: int, size: int) -> None:
    architecture = Architecture(Space(3, 16), {2: Branch((0, 1, 2), ("conv",) * 3)})
    network = DiscreteNetwork(architecture, channels, (0.5,) * channels, (0.5,) * channels)
    shapes = feature_shapes(network, (channels, size, size))
    assert shapes.branches == {2: (64, size // 16, size // 16)}
    assert shapes.intermediate[-1] == (8, size // 2, size // 2)
    with pytest.raises(UserError, match="multiples of 16"):
        feature_shapes(network, (channels, 28, 28))


def test_published_network_has_the_papers_size() -> None:
    """57.46M parameters and 0.531 GMAC in the paper's code; ours adds the stem's 1x1 shortcuts and two small 1x1s."""
    from torch.utils.flop_counter import FlopCounterMode

    from nas_osr.objectives.vae_contrastive import VAEContrastive, VAEContrastiveConfig
    from nas_osr.search_spaces.architectures.references import published

    for features, parameters, macs in ((False, 57.46e6, 0.531e9), (True, 63.73e6, 0.609e9)):
        network = DiscreteNetwork(published(), 3, MEAN, STD).eval()
        shapes = feature_shapes(network, (3, 32, 32))
        heads = VAEContrastive(shapes, (3, 32, 32), 6, VAEContrastiveConfig(decoder_features=features)).eval()
        count = sum(parameter.numel() for module in (network, heads) for parameter in module.parameters())
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            maps = network(torch.rand(1, 3, 32, 32))
            mean, _ = heads.encode(maps)
            heads.decode(mean[:, :32], mean[:, 32:], maps)
        assert count == pytest.approx(parameters, rel=1e-3)
        assert counter.get_total_flops() / 2 == pytest.approx(macs, rel=0.015)


def test_a_low_temperature_decides() -> None:
    """Probabilities, and what the cells compute with them, are those of logits over the temperature."""
    torch.manual_seed(0)
    net = build_supernet(Space(4, 16), 3, MEAN, STD).eval()
    images = torch.rand(2, 3, 32, 32)
    for logits in net.architecture_parameters.values():
        nn.init.normal_(logits)
    alphas, betas = net.alphas(), net.betas()
    net.set_temperature(0.5)
    for before, after in ((alphas, net.alphas()), (betas, net.betas())):
        for cell, p in before.items():
            sharper = torch.tensor(p).double() ** 2
            torch.testing.assert_close(torch.tensor(after[cell]).double(), sharper / sharper.sum())
    cold = net(images).branches[2]
    net.set_temperature(1.0)
    for logits in net.architecture_parameters.values():
        logits.data *= 2
    torch.testing.assert_close(net(images).branches[2], cold)
