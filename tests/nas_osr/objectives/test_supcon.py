"""The SupCon objective: its terms, what each setting changes, and training on both kinds of network."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_osr.data.augmentation import AugmentationConfig
from nas_osr.data.dataset import LabelledImages
from nas_osr.data.protocols import make_protocol
from nas_osr.errors import UserError
from nas_osr.metrics.open_set import auroc
from nas_osr.objectives import make_objective, resolve_objective_config
from nas_osr.objectives import supcon as module
from nas_osr.objectives.parts.freezing import frozen
from nas_osr.objectives.parts.gradmix import draw_gamma, gradmix, random_mates
from nas_osr.objectives.parts.pooling import pool
from nas_osr.objectives.parts.saliency_maps import saliency_maps
from nas_osr.objectives.supcon import SupCon, SupConConfig
from nas_osr.outputs import Features, FeatureShapes
from nas_osr.runs.progress import ProgressReporter
from nas_osr.runs.recorder import Unkept
from nas_osr.scoring.neighbours import Neighbours
from nas_osr.search_spaces.architectures.architecture import Architecture, Branch
from nas_osr.search_spaces.encoder import feature_shapes
from nas_osr.search_spaces.network import DiscreteNetwork
from nas_osr.search_spaces.space import Space
from nas_osr.search_spaces.supernet import Supernet, build_supernet
from nas_osr.training.epochs import Schedule, Trainer, run_epochs
from nas_osr.training.fabric import make_fabric
from nas_osr.training.learner import Learner, make_optimizers, set_up

IMAGE = (3, 32, 32)
SPACE = Space(layers=3, channels=16, operations=("skip", "conv"))
BATCH = (torch.rand(6, *IMAGE, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1, 0]))


class Small(nn.Module):
    """An encoder without BatchNorm, so that every pass over the same images gives the same."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 4, 4, 4), nn.Conv2d(4, 6, 2, 2)
        self.passes: list[int] = []

    def forward(self, images: Tensor) -> Features:
        self.passes.append(len(images))
        fine = F.leaky_relu(self.fine(images), 0.2)
        coarse = F.leaky_relu(self.coarse(fine), 0.2)
        return Features({2: coarse}, {0: fine, 2: coarse})


def small(**settings: Any) -> Learner:
    torch.manual_seed(0)
    encoder = Small()
    return Learner(encoder, SupCon(feature_shapes(encoder, IMAGE), IMAGE, 3, SupConConfig(**settings)))


def supernet_learner(**settings: Any) -> Learner:
    torch.manual_seed(0)
    supernet = build_supernet(SPACE, 3, (0.5,) * 3, (0.25,) * 3)
    objective = SupCon(feature_shapes(supernet, IMAGE), IMAGE, 3, SupConConfig(**settings))
    return Learner(supernet, objective).to(memory_format=torch.channels_last)


def discrete_learner(channels: int = 3, **settings: Any) -> Learner:
    torch.manual_seed(0)
    branch = Branch((0, 1, 2), ("conv", "skip", "conv2"))
    architecture = Architecture(Space(3, 16, ("skip", "conv", "conv2")), {2: branch}, {})
    network = DiscreteNetwork(architecture, channels, (0.3,) * channels, (0.3,) * channels)
    shape = (channels, 32, 32)
    objective = SupCon(feature_shapes(network, shape), shape, 3, SupConConfig(**settings))
    return Learner(network, objective).to(memory_format=torch.channels_last)


def seeded_losses(learner: Learner, batch: tuple[Tensor, Tensor] = BATCH) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return learner(*batch)


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def test_terms_equal_their_definitions_in_double_loops() -> None:
    """Without augmentation both views are the image; the mixed views come from the public functions."""
    settings = {"supcon_weight": 0.7, "simclr_weight": 1.5, "temperature": 0.2, "augment": False}
    learner = small(**settings)
    terms = seeded_losses(learner)
    images, labels = BATCH
    both = images.repeat(2, 1, 1, 1)
    features = learner.encoder(both)
    clean = F.normalize(learner.objective.head(pool(features)), dim=1)

    def contrast(i: int, rows: Tensor, positives: list[int], candidates: list[int]) -> Tensor:
        scores = torch.exp(rows @ clean[i] / 0.2)
        return -torch.stack([torch.log(scores[p] / scores[candidates].sum()) for p in positives]).mean()

    def mean(positives: list[list[int]], rows: Tensor, own: bool) -> Tensor:
        return torch.stack(
            [contrast(i, rows, positives[i], [k for k in range(12) if own or k != i]) for i in range(12)]
        ).mean()

    same_class = [[k for k in range(12) if k != i and labels[k % 6] == labels[i % 6]] for i in range(12)]
    supcon = 0.7 * mean(same_class, clean, own=False)
    simclr = 1.5 * mean([[(i + 6) % 12] for i in range(12)], clean, own=False)
    torch.testing.assert_close(terms["supcon"], supcon)
    torch.testing.assert_close(terms["simclr"], simclr)

    torch.manual_seed(1)
    mates = random_mates(6)
    gamma = draw_gamma(0.1, 0.5)
    maps = saliency_maps(supcon + simclr, [features.branches[2]], (32, 32))
    assert maps.max() > 0
    mixed_views, share = gradmix(both, maps, torch.cat([mates, mates + 6]), gamma)
    assert share == (round(gamma * 32) / 32) ** 2
    mixed = F.normalize(learner.objective.head(pool(learner.encoder(mixed_views))), dim=1)
    expected = 1.5 * share * mean([[i % 6, i % 6 + 6] for i in range(12)], mixed, own=True)
    torch.testing.assert_close(terms["mix"], expected)


@pytest.mark.parametrize(
    ("settings", "names", "passes"),
    [
        ({}, ["supcon", "simclr", "mix"], [12, 12]),
        ({"mix": "none"}, ["supcon", "simclr"], [12]),
        ({"mix": "none", "simclr_weight": 0.0}, ["supcon"], [12]),
        ({"simclr_weight": 0.0}, ["supcon"], [12]),
        ({"mix": "none", "supcon_weight": 0.0}, ["simclr"], [12]),
        ({"mix": "cutmix"}, ["supcon", "simclr", "mix"], [12, 12]),
        ({"mix": "mixup", "supcon_weight": 0.0}, ["simclr", "mix"], [12, 12]),
    ],
)
def test_terms_without_weight_are_left_out_and_cost_nothing(
    settings: dict, names: list[str], passes: list[int]
) -> None:
    learner = small(**settings)
    learner.encoder.passes.clear()
    terms = seeded_losses(learner)
    assert list(terms) == names and learner.encoder.passes == passes
    assert all(torch.isfinite(value) and value > 0 for value in terms.values())


def test_settings_of_the_mixing_change_only_the_mixed_term() -> None:
    plain = seeded_losses(small())
    for settings in (
        {"mix": "cutmix"},
        {"mix": "mixup"},
        {"saliency": "gradcam"},
        {"saliency_layers": (0,)},
        {"saliency_layers": (0, 2)},
        {"gamma": (0.3, 0.3)},
    ):
        other = seeded_losses(small(**settings))
        assert other["supcon"] == plain["supcon"] and other["simclr"] == plain["simclr"]
        assert other["mix"] != plain["mix"], settings


def test_both_views_are_mixed_with_views_of_the_same_mate(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = small(mix="mixup", augment=False)
    images = torch.arange(6.0).view(6, 1, 1, 1).expand(-1, 3, 32, 32)
    seen: list[tuple[Tensor, float]] = []
    mix = learner.objective.mixing.mix
    monkeypatch.setattr(learner.objective.mixing, "mix", lambda *given: (seen.append(mix(*given)), seen[0])[1])
    learner(images, BATCH[1])
    [(mixed, share)] = seen
    first, second = mixed[:, 0, 0, 0].chunk(2)
    torch.testing.assert_close(first, second)
    own = torch.arange(6.0)
    mates = own + (first - own) / share
    torch.testing.assert_close(mates.sort().values, own)
    assert (mates - own).abs().min() > 0.5


def test_one_mixed_view_spares_a_pass_and_is_that_of_two() -> None:
    """Without augmentation both mixed views are the same: log 2 more in the denominator is all that differs."""
    settings = {"augment": False, "temperature": 0.5}
    two, one = (small(mixed_views=number, **settings) for number in (2, 1))
    pairs = seeded_losses(two), seeded_losses(one)
    assert two.encoder.passes[-2:] == [12, 12] and one.encoder.passes[-2:] == [12, 6]
    torch.manual_seed(1)
    random_mates(6)
    share = (round(draw_gamma(0.1, 0.5) * 32) / 32) ** 2
    torch.testing.assert_close(pairs[0]["mix"] - pairs[1]["mix"], torch.tensor(1.2 * share * math.log(2)))


def test_without_augmentation_the_views_are_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = module.random_views
    monkeypatch.setattr(module, "random_views", lambda images, config: (calls.append(config), real(images, config))[1])
    plain = small(augment=False, mix="none", supcon_weight=0.0)
    views = plain(*BATCH)
    assert not calls
    embedding = plain.infer(BATCH[0]).embedding
    scores = embedding @ embedding.T / 0.05
    expected = -torch.log(scores.diagonal().exp() / (2 * scores.exp().sum(1) - scores.diagonal().exp()))
    torch.testing.assert_close(views["simclr"], 1.2 * expected.mean())
    small(flip=False)(*BATCH)
    assert [config.flip for config in calls] == [False]


@pytest.mark.parametrize("layers", [(), (1,), (0, 1), (-1,)])
@pytest.mark.parametrize("make", [supernet_learner, discrete_learner])
def test_weights_get_gradients_from_the_mixed_images_too(make: Any, layers: tuple[int, ...]) -> None:
    learner = make(saliency_layers=layers)
    images = BATCH[0].contiguous(memory_format=torch.channels_last)
    terms = seeded_losses(learner, (images, BATCH[1]))
    assert all(parameter.grad is None for parameter in learner.parameters())
    assert images.grad is None and not images.requires_grad
    weights = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    mixed = torch.autograd.grad(terms["mix"], weights, retain_graph=True, allow_unused=True)
    assert any(gradient is not None and gradient.abs().max() > 0 for gradient in mixed)
    total(terms).backward()
    assert all(parameter.grad is not None and torch.isfinite(parameter.grad).all() for parameter in weights)


@pytest.mark.parametrize("layers", [(), (1,), (0, 1), (0,), (-1, 1)])
def test_an_architecture_step_moves_only_alphas_and_betas(layers: tuple[int, ...]) -> None:
    learner = supernet_learner(saliency_layers=layers)
    supernet = learner.encoder
    assert isinstance(supernet, Supernet)
    plain = seeded_losses(learner)
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    weights = [*supernet.weight_parameters(), *learner.objective.parameters()]
    with frozen(learner, weights):
        terms = seeded_losses(learner)
        total(terms).backward()
    for name, value in terms.items():
        torch.testing.assert_close(value, plain[name])
    assert all(parameter.grad is None for parameter in weights)
    gradients = [logits.grad for logits in supernet.architecture_parameters.values()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients)
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())


def test_under_no_grad_the_values_are_the_same() -> None:
    learner = small(saliency_layers=(0, 2))
    with torch.no_grad():
        silent = seeded_losses(learner)
    for name, value in seeded_losses(learner).items():
        torch.testing.assert_close(silent[name], value)
    with torch.no_grad():
        terms = seeded_losses(small(mix="cutmix"))
    assert not any(value.requires_grad for value in terms.values())


@pytest.mark.parametrize("labels", [[1] * 6, [0, 1, 2, 0, 1, 2]])
@pytest.mark.parametrize("count", [1, 2, 6])
@pytest.mark.parametrize("size", [1e-8, 1.0, 1e8])
def test_losses_are_finite(labels: list[int], count: int, size: float) -> None:
    """One class in the batch, one image, and features of any size."""
    learner = small()
    with torch.no_grad():
        learner.objective.head[2].weight.mul_(size)
        learner.objective.head[2].bias.mul_(size)
    terms = seeded_losses(learner, (BATCH[0][:count], torch.tensor(labels[:count])))
    total(terms).backward()
    assert all(torch.isfinite(value) for value in terms.values())
    assert all(torch.isfinite(parameter.grad).all() for parameter in learner.parameters())


def test_bf16_autocast_stays_close_and_losses_are_float32() -> None:
    learner = discrete_learner(mix="cutmix", temperature=0.5)
    exact = seeded_losses(learner)
    with torch.autocast("cpu", torch.bfloat16):
        terms = seeded_losses(learner)
        salient = seeded_losses(discrete_learner())
    for name, value in terms.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact[name], rtol=0.05, atol=0.05)
    total(salient).backward()
    assert salient.keys() == {"supcon", "simclr", "mix"} and total(salient).isfinite()


def test_the_loss_scale_makes_up_for_weights_and_temperature() -> None:
    assert small().objective.loss_scale == pytest.approx(44.0)
    assert small(simclr_weight=0.0, temperature=0.5).objective.loss_scale == 2.0


def test_forward_fills_what_it_promises() -> None:
    learner = small()
    outputs = learner.infer(BATCH[0])
    assert outputs.available() == SupCon.provides
    assert outputs.embedding is not None and outputs.embedding.shape == (6, 128)
    torch.testing.assert_close(outputs.embedding.norm(dim=1), torch.ones(6))


def test_coefficients_by_protocol() -> None:
    def config(protocol: str) -> SupConConfig:
        return resolve_objective_config("supcon", {}, make_protocol(protocol), "retrain")

    assert config("cifar10") == config("cifar+10") == SupConConfig()
    assert config("tinyimagenet") == SupConConfig(simclr_weight=1.0)
    assert config("mnist") == config("digits")
    assert config("mnist") == SupConConfig(simclr_weight=3.0, mix="none", augment=False, flip=False)
    assert config("svhn") == SupConConfig(flip=False)
    assert config("fashion-mnist") == SupConConfig()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature must be greater than 0"),
        ({"supcon_weight": -1}, "supcon_weight must not be negative"),
        ({"supcon_weight": 0, "simclr_weight": 0}, "both 0"),
        ({"head_width": 0}, "head_width must be greater than 0"),
        ({"mix": "cut"}, "mix must be one of gradmix, cutmix, mixup, none, got 'cut'"),
        ({"saliency": "cam"}, "saliency must be one of layercam, gradcam"),
        ({"mixed_views": 3}, "mixed_views must lie in .1, 2., got 3"),
        ({"mix": "mixup", "mix_alpha": -1.0}, "mix_alpha must "),
        ({"mix_alpha": 1.0}, "mix_alpha is for mix cutmix and mixup, not for gradmix"),
        ({"saliency_layers": 2}, "saliency_layers must be a list "),
        ({"saliency_layers": [1, 3]}, "saliency_layers must lie in .-1, 2., got 3"),
        ({"gamma": [0.5, 0.1]}, "gamma must be two rising numbers"),
        ({"gamma": 0.5}, "gamma must be a list "),
        ({"gamma": ["a", "b"]}, "gamma must be a list "),
        ({"lambda": 1.0}, "no setting 'lambda'"),
    ],
)
def test_wrong_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_objective_config("supcon", settings, make_protocol("cifar10"), "retrain")


def test_a_map_that_is_missing_or_too_coarse_is_refused_for_training_alone() -> None:
    shapes = FeatureShapes({2: (4, 2, 2)}, {1: (4, 4, 4), 2: (4, 2, 2)})

    def heads(**settings: Any) -> SupCon:
        return make_objective("supcon", shapes, IMAGE, 3, SupConConfig(**settings))

    with pytest.raises(UserError, match="no map at scale 0; choose of 1"):
        heads(saliency_layers=(0, 1)).check_training()
    with pytest.raises(UserError, match="scale 2 has 2x2 positions, and a saliency needs 4x4; choose of 1"):
        heads(saliency_layers=(2,)).check_training()
    with pytest.raises(UserError, match="no map of 4x4 positions"):
        make_objective("supcon", FeatureShapes({2: (4, 2, 2)}, {}), IMAGE, 3, SupConConfig()).check_training()
    for settings in ({"mix": "cutmix"}, {"simclr_weight": 0.0}):
        heads(saliency_layers=(2,), **settings).check_training()
    heads().check_training()
    assert heads().mixing.scales() == (1,)


def test_two_layers_that_are_one_tensor_are_one_layer(caplog: pytest.LogCaptureFixture) -> None:
    class Twice(Small):
        def forward(self, images: Tensor) -> Features:
            features = super().forward(images)
            return Features(features.branches, {0: features.intermediate[0], 1: features.branches[2]})

    def losses(layers: tuple[int, ...]) -> dict[str, Tensor]:
        torch.manual_seed(0)
        encoder = Twice()
        objective = SupCon(feature_shapes(encoder, IMAGE), IMAGE, 3, SupConConfig(saliency_layers=layers))
        return seeded_losses(Learner(encoder, objective))

    with caplog.at_level(logging.WARNING):
        assert losses((0, 1, 2)) == losses((0, 1)) != losses((1,)) == losses((1, 2))
    assert "one map, which counts once" in caplog.text


def patterns(count: int, kinds: list[int]) -> tuple[Tensor, Tensor]:
    """Noisy stripes whose direction and width are the class: learnable, and different for unknown kinds."""
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    waves = [rows / 3, columns / 3, (rows + columns) / 8, columns / 1.2]
    labels = torch.arange(count) % len(kinds)
    images = torch.stack([torch.sin(waves[kinds[label]] + 6 * torch.rand(())) for label in labels])[:, None]
    return (0.5 + 0.3 * images + 0.1 * torch.randn(count, 1, 32, 32)).clamp(0, 1), labels


class Unjudged(Trainer):
    """A training whose losses alone are looked at."""

    def phase(self, epoch: int) -> str:
        return "training"

    def judge(self, *known: Any) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize("mix", ["gradmix", "none"])
def test_training_tells_classes_and_unknown_images_apart(mix: str) -> None:
    learner = discrete_learner(channels=1, mix=mix, flip=False)
    fabric = make_fabric("cpu", "32-true", 1)
    torch.manual_seed(2)
    images, labels = patterns(96, [0, 1, 2])
    weights = list(learner.encoder.parameters())
    optimizers = make_optimizers(learner, weights, lambda parameters: torch.optim.Adam(parameters, lr=3e-3))
    schedule = Schedule(8, 32, lambda position: 1.0, 5.0, 1.0, AugmentationConfig("none"), 2)
    data = LabelledImages((images * 255).to(torch.uint8), labels, labels)
    recorder = Unkept(ProgressReporter(8, quiet=True))
    run_epochs(Unjudged(fabric, *set_up(fabric, learner, optimizers), data, schedule), recorder)
    history = [record["losses"] for record in recorder.history()]
    assert history[-1]["supcon"] < history[0]["supcon"] - 0.2
    learner.eval()
    rule = Neighbours(k=5)
    with torch.no_grad():
        rule.fit(learner.infer(images), labels)
        known, unknown = learner.infer(patterns(60, [0, 1, 2])[0]), learner.infer(patterns(30, [3])[0])
    accuracy = (rule.scores(known).labels == torch.arange(60) % 3).double().mean()
    scores = torch.cat([rule.scores(known).knownness, rule.scores(unknown).knownness])
    assert accuracy > 0.9
    assert auroc(scores.numpy(), (torch.arange(90) >= 60).numpy()) > 0.8
