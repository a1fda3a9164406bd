"""MoCo: its loss, its momentum encoder and its queue, and that a resumed training goes on exactly."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_osr.data.protocols import make_protocol
from nas_osr.data.views import ViewConfig, random_views
from nas_osr.errors import UserError
from nas_osr.objectives import resolve_objective_config
from nas_osr.objectives.moco import MoCo, MoCoConfig
from nas_osr.objectives.parts.freezing import frozen
from nas_osr.objectives.parts.gradmix import cutmix, draw_gamma, gradmix, random_mates
from nas_osr.objectives.parts.pooling import pool
from nas_osr.objectives.parts.saliency_maps import saliency_maps
from nas_osr.outputs import Features
from nas_osr.search_spaces.encoder import feature_shapes
from nas_osr.search_spaces.space import Space
from nas_osr.search_spaces.supernet import build_supernet
from nas_osr.training.learner import Learner

IMAGE = (3, 32, 32)
BATCH = (torch.rand(6, *IMAGE, generator=torch.Generator().manual_seed(0)), torch.zeros(6, dtype=torch.int64))


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 6, 16, 16), nn.BatchNorm2d(6), nn.LeakyReLU(0.2))

    def forward(self, images: Tensor) -> Features:
        return Features({2: self.layers(images)}, {})


def make(encoder: nn.Module | None = None, **settings: Any) -> Learner:
    torch.manual_seed(0)
    encoder = encoder or Small()
    config = MoCoConfig(**{"queue_size": 10, "head_width": 4, **settings})
    return Learner(encoder, MoCo(feature_shapes(encoder, IMAGE), IMAGE, 3, config))


def step(learner: Learner, optimizer: torch.optim.Optimizer, seed: int) -> float:
    torch.manual_seed(seed)
    (loss,) = learner(*BATCH).values()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def sgd(learner: Learner) -> torch.optim.Optimizer:
    weights = learner.player_parameters("main", list(learner.encoder.parameters()))
    return torch.optim.SGD(weights, lr=0.5, momentum=0.9)


def test_the_loss_equals_its_definition() -> None:
    learner = make(temperature=0.3)
    queue = learner.objective.queue.clone()
    reference = copy.deepcopy(learner)
    torch.manual_seed(1)
    (loss,) = learner(*BATCH).values()
    torch.manual_seed(1)
    first, second = random_views(BATCH[0].repeat(2, 1, 1, 1), ViewConfig()).chunk(2)
    heads = reference.objective
    queries = F.normalize(heads.head(pool(reference.encoder(first))), dim=1)
    keys = F.normalize(heads.key_head(pool(heads.key_encoder(second))), dim=1)
    scores = torch.stack([torch.cat([(q @ k)[None], queue @ q]) for q, k in zip(queries, keys, strict=True)])
    torch.testing.assert_close(loss, F.cross_entropy(scores / 0.3, torch.zeros(6, dtype=torch.int64)))
    # the keys are the queue's newest, the rest is as it was
    torch.testing.assert_close(learner.objective.queue[:6], keys)
    assert torch.equal(learner.objective.queue[6:], queue[6:])


class Finer(Small):
    """With a map of 8x8 positions, from which the other is made."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.LeakyReLU(0.2), nn.Conv2d(4, 6, 4, 4))

    def forward(self, images: Tensor) -> Features:
        fine = self.layers[:2](images)
        return Features({2: self.layers[2](fine)}, {0: fine})


@pytest.mark.parametrize("mix", ["gradmix", "cutmix"])
def test_the_loss_on_mixed_images_equals_its_definition(mix: str) -> None:
    learner = make(Finer(), temperature=0.3, mix=mix)
    heads = copy.deepcopy(learner.objective)
    queue = heads.queue.clone()
    torch.manual_seed(1)
    terms = learner(*BATCH)
    assert list(terms) == ["info_nce", "mix"]

    torch.manual_seed(1)
    first, second = random_views(BATCH[0].repeat(2, 1, 1, 1), ViewConfig()).chunk(2)
    keys = F.normalize(heads.key_head(pool(heads.key_encoder(second))), dim=1)

    def info_nce(features: Features) -> Tensor:
        queries = F.normalize(learner.objective.head(pool(features)), dim=1)
        scores = torch.cat([(queries * keys).sum(1, keepdim=True), queries @ queue.T], dim=1)
        return F.cross_entropy(scores / 0.3, torch.zeros(6, dtype=torch.int64))

    features = learner.encoder(first)
    mates, gamma = random_mates(6), draw_gamma(0.1, 0.5)
    if mix == "gradmix":
        maps = saliency_maps(info_nce(features), [features.intermediate[0]], (32, 32))
        assert maps.max() > 0
        mixed, share = gradmix(first, maps, mates, gamma)
    else:
        mixed, share = cutmix(first, mates, gamma)
    torch.testing.assert_close(terms["info_nce"], info_nce(features))
    torch.testing.assert_close(terms["mix"], share * info_nce(learner.encoder(mixed)))
    # the queue has the keys of clean images only
    torch.testing.assert_close(learner.objective.queue[:6], keys)
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learner.encoder.parameters())


def test_a_network_without_a_fine_map_is_refused_for_training_alone() -> None:
    make(mix="cutmix").objective.check_training()
    with pytest.raises(UserError, match="moco: saliency_layers: the network has no map of 4x4 positions"):
        make(mix="gradmix").objective.check_training()


def test_the_queue_wraps_and_keeps_the_newest() -> None:
    objective = make(queue_size=5, head_width=1).objective
    objective.enqueue(torch.tensor([[1.0], [2.0], [3.0]]))
    objective.enqueue(torch.tensor([[4.0], [5.0], [6.0]]))
    assert objective.queue.flatten().tolist() == [6.0, 2.0, 3.0, 4.0, 5.0] and int(objective.position) == 1
    objective.enqueue(torch.arange(7.0, 20.0)[:, None])
    assert sorted(objective.queue.flatten().tolist()) == [15.0, 16.0, 17.0, 18.0, 19.0]
    assert float(objective.queue[(int(objective.position) - 1) % 5]) == 19.0


def test_the_queue_starts_with_unit_vectors() -> None:
    torch.testing.assert_close(make().objective.queue.norm(dim=1), torch.ones(10))


def test_the_momentum_encoder_follows_slowly() -> None:
    learner = make(momentum=0.75)
    optimizer = sgd(learner)
    expected = [
        parameter.detach().clone()
        for parameter in (*learner.encoder.parameters(), *learner.objective.head.parameters())
    ]
    for seed in range(3):
        fast = (*learner.encoder.parameters(), *learner.objective.head.parameters())
        expected = [0.75 * old + 0.25 * new.detach() for old, new in zip(expected, fast, strict=True)]
        step(learner, optimizer, seed)
        slow = (*learner.objective.key_encoder.parameters(), *learner.objective.key_head.parameters())
        for own, value in zip(slow, expected, strict=True):
            torch.testing.assert_close(own, value)
            assert not own.requires_grad and own.grad is None
    assert any(not torch.equal(own, new) for own, new in zip(slow, fast, strict=True))


def test_only_encoder_and_head_are_updated() -> None:
    learner = make()
    mine = {id(parameter) for parameter in learner.player_parameters("main", list(learner.encoder.parameters()))}
    slow = [*learner.objective.key_encoder.parameters(), *learner.objective.key_head.parameters()]
    assert not mine & {id(parameter) for parameter in slow}
    assert mine == {id(parameter) for parameter in learner.parameters() if parameter.requires_grad}


def test_the_momentum_encoders_batch_norm_records_its_own_statistics() -> None:
    learner = make()
    key, own = learner.objective.key_encoder.layers[1], learner.encoder.layers[1]
    step(learner, sgd(learner), 0)
    assert int(key.num_batches_tracked) == int(own.num_batches_tracked) == 1
    assert key.running_mean.any() and not torch.equal(key.running_mean, own.running_mean)


def test_an_architecture_step_and_inference_leave_everything_as_it_is() -> None:
    supernet = build_supernet(Space(layers=3, channels=16, operations=("skip", "conv")), 3, (0.5,) * 3, (0.3,) * 3)
    learner = make(supernet).to(memory_format=torch.channels_last)
    step(learner, sgd(learner), 0)
    learner.zero_grad()
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    with frozen(learner, [*supernet.weight_parameters(), *learner.objective.parameters()]):
        (loss,) = learner(*BATCH).values()
        loss.backward()
    assert all(logits.grad is not None for logits in supernet.architecture_parameters.values())
    learner.eval()
    assert learner.infer(BATCH[0]).available() == MoCo.provides
    learner(*BATCH)
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())


def test_the_first_encoder_is_the_one_that_is_followed() -> None:
    learner = make()
    key = learner.objective.key_encoder
    Learner(Small(), learner.objective)
    assert learner.objective.key_encoder is key
    assert not {id(parameter) for parameter in key.parameters()} & {id(p) for p in learner.encoder.parameters()}
    detached = MoCo(feature_shapes(Small(), IMAGE), IMAGE, 3, MoCoConfig(queue_size=4))
    with pytest.raises(RuntimeError, match="attach comes before losses"):
        detached.losses(Small(), BATCH)


def test_a_resumed_training_goes_on_exactly() -> None:
    straight = make()
    optimizer = sgd(straight)
    for seed in range(2):
        step(straight, optimizer, seed)
    state = copy.deepcopy((straight.state_dict(), optimizer.state_dict()))
    expected = [step(straight, optimizer, seed) for seed in (2, 3)]
    resumed = make()
    again = sgd(resumed)
    resumed.load_state_dict(state[0])
    again.load_state_dict(state[1])
    assert [step(resumed, again, seed) for seed in (2, 3)] == expected
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_training_learns_to_match_views() -> None:
    learner = make(head_width=16, queue_size=60, momentum=0.9, temperature=0.2)
    optimizer = torch.optim.Adam(learner.player_parameters("main", list(learner.encoder.parameters())), lr=0.01)
    losses = [step(learner, optimizer, seed) for seed in range(50)]
    # from when the queue is full of keys
    assert sum(losses[-10:]) < sum(losses[12:22])
    assert all(loss == loss for loss in losses)


def test_bf16_autocast_gives_float32() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        (loss,) = make()(*BATCH).values()
    assert loss.dtype == torch.float32 and loss.isfinite()


def test_coefficients() -> None:
    config = resolve_objective_config("moco", {}, make_protocol("cifar10"), "retrain")
    assert (config.queue_size, config.momentum, config.flip) == (8196, 0.999, True)
    assert not resolve_objective_config("moco", {}, make_protocol("svhn"), "retrain").flip
    assert make(temperature=0.25).objective.loss_scale == 4.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature must be greater than 0"),
        ({"queue_size": 0}, "queue_size must be greater than 0"),
        ({"head_width": 0}, "head_width must be greater than 0"),
        ({"momentum": 1.1}, "momentum must lie in .0, 1., got 1.1"),
        ({"queue": 5}, "no setting 'queue'"),
        ({"mix": "cut"}, "mix must be one of gradmix, cutmix, mixup, none"),
        ({"mix_alpha": 0.5}, "mix_alpha is for mix cutmix and mixup, not for none"),
    ],
)
def test_wrong_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_objective_config("moco", settings, make_protocol("cifar10"), "retrain")
