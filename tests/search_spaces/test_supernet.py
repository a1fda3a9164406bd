"""The supernet: its structure, a plain-torch oracle, and the discrete network as its one-hot case."""

from __future__ import annotations

import math
from dataclasses import asdict

import pytest
import torch
from torch import Tensor, nn

from nas_osr.errors import UserError
from nas_osr.objectives.parts.pooling import pool
from nas_osr.search_spaces.architectures.architecture import Architecture, Branch
from nas_osr.search_spaces.architectures.decoding import path_chances
from nas_osr.search_spaces.architectures.sampling import sample_architecture
from nas_osr.search_spaces.encoder import feature_shapes
from nas_osr.search_spaces.network import DiscreteNetwork, Widened, inherit_weights
from nas_osr.search_spaces.operations import ACTIVATIONS
from nas_osr.search_spaces.space import POOLINGS, Space, all_paths, mixing_cells
from nas_osr.search_spaces.spaces import Wide
from nas_osr.search_spaces.supernet import Supernet, build_supernet

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


class Separable(nn.Sequential):
    """An operation whose name has dots in it."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        depthwise = nn.Conv2d(channels_in, channels_in, 3, stride, padding=1, groups=channels_in)
        super().__init__(depthwise, nn.Conv2d(channels_in, channels_out, 1), nn.BatchNorm2d(channels_out))


PLAIN = {
    "L4": Space(4, 16),
    "L6": Space(6, 16, stem="pooled"),
    "branches": Space(5, 16, branches=(0, 1, 2)),
    "plug-in": Space(4, 16, ("skip", f"{__name__}.Separable")),
}
CHOOSING = {
    "choices": Space(4, 16, branches=(0, 2), poolings=POOLINGS, widths=(0.25, 0.75, 1.0)),
    "wide": Space(**asdict(Wide(4, 16))),
    "two inputs": Space(6, 16, branches=(0, 1, 2), two_inputs=True),
}


@pytest.fixture(scope="module", params=[*PLAIN.values(), *CHOOSING.values()], ids=[*PLAIN, *CHOOSING])
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
        paths = torch.tensor([math.comb(layer - 1, scale - 1), math.comb(layer - 1, scale)])  # to either source
        beta = parameters[f"beta_{layer}_{scale}"].exp() * paths
        beta = beta / beta.sum()
        return beta[0] * sources[0] + beta[1] * sources[1]

    last = config.layers - 1
    return {scale: cell(last, scale, "keep", node(last, scale)) for scale in config.branches}


@pytest.mark.parametrize("supernet", PLAIN.values(), ids=PLAIN, indirect=True)
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
    """One-hot alphas, betas, gammas and joins for an architecture (a difference of 200 is one-hot in float32)."""
    wanted = {
        f"gamma_{name}": candidates.index(architecture.choices[name]) for name, candidates in net.space.choices.items()
    }
    for way in (*architecture.joins.values(), *architecture.branches.values()):
        for layer, (scale, operation) in enumerate(zip(way.path, way.operations, strict=True)):
            wanted[f"alpha_{layer}_{scale}"] = net.space.operations.index(operation)
            wanted[f"beta_{layer}_{scale}"] = 0 if way.path[layer - 1] < scale else 1
            wanted[f"join_{layer}_{scale}"] = int((layer, scale) in architecture.joins)
    with torch.no_grad():
        for label, logits in net.architecture_parameters.items():
            if label in wanted:
                logits.fill_(-100.0)
                logits[wanted[label]] = 100.0


@pytest.mark.parametrize("seed", range(6))
def test_discrete_network_equals_one_hot_supernet(supernet: Supernet, seed: int) -> None:
    """Every map that leaves it, what it has pooled, and so every head; with zeros where it is narrower."""
    check_one_hot(supernet, sample_architecture(supernet.space, seed))


@pytest.mark.parametrize("supernet", [CHOOSING["wide"]], ids=["wide"], indirect=True)
@pytest.mark.parametrize("operation", CHOOSING["wide"].selectable)
def test_each_operation_where_a_scale_is_narrowed(supernet: Supernet, operation: str) -> None:
    """A cell that doubles the channels may then have as many as before."""
    choices = {"stem": "strided", "activation": "gelu", "pooling": "both", "output": 2, "width_0": 1.0, "width_1": 0.5}
    way = Branch((0, 0, 1, 2), (operation,) * 4)
    check_one_hot(supernet, Architecture(supernet.space, {2: way}, choices=choices | {"width_2": 0.5}))


def check_one_hot(supernet: Supernet, architecture: Architecture) -> None:
    before = {label: logits.detach().clone() for label, logits in supernet.architecture_parameters.items()}
    choose(supernet, architecture)
    network = DiscreteNetwork(architecture, 3, MEAN, STD).eval()
    inherit_weights(network, supernet, architecture)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        ours, mixed = Widened(network, supernet.space.channels)(images), supernet(images)
        for label, logits in before.items():
            supernet.architecture_parameters[label].copy_(logits)
    assert ours.branches.keys() == mixed.branches.keys()
    for scale in mixed.branches:
        torch.testing.assert_close(ours.branches[scale], mixed.branches[scale], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pool(ours), pool(mixed), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.intermediate[-1], mixed.intermediate[-1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_a_supernet_that_follows_an_architecture_computes_it_and_nothing_else(supernet: Supernet, seed: int) -> None:
    architecture = sample_architecture(supernet.space, seed)
    network = DiscreteNetwork(architecture, 3, MEAN, STD).eval()
    inherit_weights(network, supernet, architecture)
    calls: list[int] = []
    candidates = [
        c for forms in (supernet.network.keep, supernet.network.halve) for form in forms.values() for c in form
    ]
    hooks = [candidate.register_forward_hook(lambda *_: calls.append(1)) for candidate in candidates]
    images = torch.rand(2, 3, 32, 32)
    supernet.follow(architecture)
    with torch.no_grad():
        ours, followed = Widened(network, supernet.space.channels)(images), supernet(images)
    for weigher in supernet.weighers.values():
        weigher.set()
    for hook in hooks:
        hook.remove()
    assert len(calls) == len(network.cells)
    assert ours.branches.keys() == followed.branches.keys()
    for scale in ours.branches:
        torch.testing.assert_close(ours.branches[scale], followed.branches[scale], rtol=1e-5, atol=1e-5)
    # of several ways a discrete network shows the one to 1/16
    for scale in ours.intermediate if len(architecture.ways()) == 1 else ():
        torch.testing.assert_close(ours.intermediate[scale], followed.intermediate[scale], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pool(ours), pool(followed), rtol=1e-5, atol=1e-5)


def test_networks_with_two_inputs_are_among_those() -> None:
    found = [sample_architecture(CHOOSING["two inputs"], seed) for seed in range(6)]
    assert all(architecture.joins for architecture in found)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("output", [1, 2])
def test_pooling_and_output_are_what_they_say(pooling: str, output: int) -> None:
    """Heads that pool see the map at its own resolution; heads that read a map see it at 1/16."""
    torch.manual_seed(0)
    space = Space(4, 16, poolings=POOLINGS, outputs=(1, 2))
    way = Branch((0, 0, 1, output), ("conv",) * 4)
    architecture = Architecture(space, {output: way}, choices={"pooling": pooling, "output": output})
    network = DiscreteNetwork(architecture, 3, MEAN, STD).eval()
    seen: list[Tensor] = []
    (network.neck if output == 1 else network.cells["3_2_keep"]).register_forward_hook(lambda *a: seen.append(a[2]))
    features = network(torch.rand(2, 3, 32, 32))
    assert seen[0].shape == (2, 64, 8 >> output, 8 >> output)
    flat = seen[0].flatten(2)
    expected = {"average": flat.mean(2), "maximum": flat.max(2)[0], "both": (flat.mean(2) + flat.max(2)[0]) / 2}
    torch.testing.assert_close(pool(features), expected[pooling])
    blocks = seen[0].unflatten(3, (2, -1)).unflatten(2, (2, -1)).mean(dim=(3, 5))
    torch.testing.assert_close(features.branches[2], blocks)


def test_activations_are_torchs() -> None:
    """Of cells and stem alike; the same network with the module of torch in their place."""
    plain = {"leaky_relu": nn.LeakyReLU(0.2), "relu": nn.ReLU(), "gelu": nn.GELU(), "silu": nn.SiLU()}
    space = Space(3, 16, ("conv", "inverted"), activations=ACTIVATIONS)
    for name in ACTIVATIONS:
        torch.manual_seed(1)
        way = Branch((0, 1, 2), ("conv", "inverted", "inverted"))
        network = DiscreteNetwork(Architecture(space, {2: way}, choices={"activation": name}), 3, MEAN, STD)
        images = torch.rand(2, 3, 32, 32)
        expected = network(images).branches[2]
        for module in list(network.modules()):
            for key, child in module.named_children():
                if type(child).__name__ == "Activation":
                    setattr(module, key, plain[name])
        torch.testing.assert_close(network(images).branches[2], expected)


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


def test_forms_of_a_cell_share_one_alpha() -> None:
    net = build_supernet(Space(layers=6, channels=16), 3, MEAN, STD)
    assert net.network.keep["1_0"]._arch_alpha is net.network.halve["1_0"]._arch_alpha
    assert list(net.architecture_parameters) == sorted(net.architecture_parameters)
    weights = {id(parameter) for parameter in net.weight_parameters()}
    assert not weights & {id(logits) for logits in net.architecture_parameters.values()}


@pytest.mark.parametrize("temperature", [1.0, 0.1])
@pytest.mark.parametrize("space", [Space(6, 16), Space(**asdict(Wide(5, 8))), Space(5, 16, branches=(0, 1, 2))])
def test_everything_starts_equal(space: Space, temperature: float) -> None:
    """Operations and choices of the network; and each path to an output as likely as another, at any temperature."""
    net = build_supernet(space, 3, MEAN, STD)
    net.set_temperature(temperature)
    for probabilities in (*net.alphas().values(), *net.gammas().values(), *net.joins().values()):
        assert len(set(probabilities)) == 1
    betas = net.betas()
    for end in space.ends:
        paths = all_paths(space.layers, end)
        for path in paths:
            steps = [betas[cell][0 if path[cell[0] - 1] < cell[1] else 1] for cell in enumerate(path) if cell[0]]
            assert math.prod(steps) == pytest.approx(1 / len(paths))
        chances = path_chances(space, betas)[str(end)]
        assert chances["chosen"] == pytest.approx(1 / len(paths))
        assert chances["runner_up"] == (pytest.approx(1 / len(paths)) if len(paths) > 1 else None)


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
    for cell, p in alphas.items():
        sharper = torch.tensor(p).double() ** 2
        torch.testing.assert_close(torch.tensor(net.alphas()[cell]).double(), sharper / sharper.sum())
    for cell in mixing_cells(4, (2,)):  # what is learned gets sharper, and not that two paths lead to one source
        prior = torch.tensor([math.comb(cell[0] - 1, cell[1] - 1), math.comb(cell[0] - 1, cell[1])]).double()
        sharper = (torch.tensor(betas[cell]).double() / prior) ** 2 * prior
        torch.testing.assert_close(torch.tensor(net.betas()[cell]).double(), sharper / sharper.sum())
    cold = net(images).branches[2]
    net.set_temperature(1.0)
    for logits in net.architecture_parameters.values():
        logits.data *= 2
    torch.testing.assert_close(net(images).branches[2], cold)
