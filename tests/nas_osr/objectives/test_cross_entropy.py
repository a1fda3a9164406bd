"""Cross-entropy and Center loss against loops over single images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity
from torch import Tensor, nn
from torch.nn import functional as F

from nas_osr.data.protocols import make_protocol
from nas_osr.errors import UserError
from nas_osr.objectives import make_objective, resolve_objective_config
from nas_osr.objectives.cross_entropy import CrossEntropy, CrossEntropyConfig, center_loss
from nas_osr.objectives.parts.pooling import pool, pooled_width
from nas_osr.outputs import Features, FeatureShapes

SHAPES = FeatureShapes({2: (5, 2, 2)}, {2: (5, 2, 2)})
FINER = FeatureShapes({0: (2, 4, 4), 2: (5, 2, 2)}, {})


class GivenMaps(nn.Module):
    """Returns the same maps whatever the images."""

    def __init__(self, features: Features) -> None:
        super().__init__()
        self.features = features

    def forward(self, images: Tensor) -> Features:
        return self.features


def random_maps(count: int, shapes: FeatureShapes = SHAPES, scale: float = 1.0) -> Features:
    generator = torch.Generator().manual_seed(3)
    return Features(
        {key: scale * torch.randn(count, *shape, generator=generator) for key, shape in shapes.branches.items()}, {}
    )


def make(classes: int = 3, shapes: FeatureShapes = SHAPES, **settings: Any) -> CrossEntropy:
    torch.manual_seed(0)
    return CrossEntropy(shapes, (3, 32, 32), classes, CrossEntropyConfig(**settings))


IMAGES = torch.zeros(4, 3, 32, 32)
LABELS = torch.tensor([2, 0, 2, 1])


def test_features_are_channel_means_coarsest_first() -> None:
    features = random_maps(2, FINER)
    pooled = pool(features)
    assert pooled.shape == (2, pooled_width(FINER)) == (2, 7)
    for i in range(2):
        expected = [channel.sum() / 4 for channel in features.branches[2][i]]
        expected += [channel.sum() / 16 for channel in features.branches[0][i]]
        torch.testing.assert_close(pooled[i], torch.stack(expected))
    half = Features({key: value.bfloat16() for key, value in features.branches.items()}, {})
    assert pool(half).dtype == torch.float32


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_losses_equal_their_definitions(smoothing: float) -> None:
    objective = make(label_smoothing=smoothing, center_weight=0.25)
    assert objective.centers is not None
    nn.init.normal_(objective.centers)
    features = random_maps(4)
    terms = objective.losses(GivenMaps(features), (IMAGES, LABELS))
    ce = center = 0.0
    for embedding, label in zip(pool(features).double(), LABELS.tolist(), strict=True):
        log_p = (objective.classifier.weight.double() @ embedding + objective.classifier.bias.double()).log_softmax(0)
        target = torch.full((3,), smoothing / 3).double()
        target[label] += 1 - smoothing
        ce += -(target * log_p).sum() / 4
        center += 0.25 * 0.5 * ((embedding - objective.centers[label].double()) ** 2).sum() / 4
    assert terms.keys() == {"ce", "center"}
    torch.testing.assert_close(terms["ce"].double(), torch.as_tensor(ce), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(terms["center"].double(), torch.as_tensor(center), rtol=1e-5, atol=1e-6)


def test_center_loss_by_hand_and_its_gradient() -> None:
    """1/2 of ((1 + 4) + 4) / 2; a centre is pulled by its own images only."""
    embedding = torch.tensor([[1.0, 2.0], [3.0, 0.0]], dtype=torch.float64)
    centers = torch.tensor([[0.0, 0.0], [9.0, 9.0], [1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    loss = center_loss(embedding, centers, torch.tensor([0, 2]))
    assert loss.item() == 2.25
    (gradient,) = torch.autograd.grad(loss, centers)
    assert gradient.tolist() == [[-0.5, -1.0], [0.0, 0.0], [-1.0, 0.0]]
    labels = torch.tensor([1, 1])
    assert torch.autograd.gradcheck(lambda f, c: center_loss(f, c, labels), (embedding.requires_grad_(), centers))


def test_without_weight_there_is_no_center() -> None:
    objective = make()
    assert objective.centers is None and len(list(objective.parameters())) == 2
    assert objective.losses(GivenMaps(random_maps(4)), (IMAGES, LABELS)).keys() == {"ce"}


def test_centers_find_the_class_means() -> None:
    objective = make(center_weight=1.0)
    features = random_maps(4)
    optimizer = torch.optim.SGD(objective.parameters(), lr=1.0)
    for _ in range(100):
        optimizer.zero_grad()
        objective.losses(GivenMaps(features), (IMAGES, LABELS))["center"].backward()
        optimizer.step()
    embedding = pool(features)
    expected = torch.stack([embedding[LABELS == label].mean(0) for label in range(3)])
    assert objective.centers is not None
    torch.testing.assert_close(objective.centers.detach(), expected)


def test_forward_fills_what_it_promises() -> None:
    objective = make(shapes=FINER)
    outputs = objective(GivenMaps(random_maps(4, FINER)), IMAGES)
    assert outputs.available() == CrossEntropy.provides
    assert outputs.logits is not None and outputs.logits.shape == (4, 3)
    assert outputs.embedding is not None and outputs.embedding.shape == (4, 7)
    assert isinstance(make_objective("cross_entropy", SHAPES, (3, 32, 32), 2, CrossEntropyConfig()), CrossEntropy)


def test_bf16_autocast_stays_close_and_losses_are_float32() -> None:
    objective = make(center_weight=1.0)
    encoder = GivenMaps(random_maps(4))
    exact = objective.losses(encoder, (IMAGES, LABELS))
    with torch.autocast("cpu", torch.bfloat16):
        terms = objective.losses(encoder, (IMAGES, LABELS))
        logits = objective(encoder, IMAGES).logits
    assert logits is not None and logits.dtype == torch.float32
    for name, value in terms.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact[name], rtol=0.02, atol=0.02)


@pytest.mark.parametrize("pooling", ["average", "maximum", "both"])
def test_pooling_is_numpys(pooling: str) -> None:
    features = random_maps(4, FINER)
    found = make(shapes=FINER, pooling=pooling)(GivenMaps(features), IMAGES).embedding
    maps = [features.branches[scale].numpy().reshape(4, -1, side * side) for scale, side in ((2, 2), (0, 4))]
    mean, largest = (np.concatenate([how(map_, axis=2) for map_ in maps], axis=1) for how in (np.mean, np.max))
    expected = {"average": mean, "maximum": largest, "both": (mean + largest) / 2}[pooling]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_what_the_network_pools_itself_is_taken_and_no_other_pooling() -> None:
    features, pooled = random_maps(4), torch.randn(4, 5)
    assert torch.equal(make()(GivenMaps(features._replace(pooled=pooled)), IMAGES).embedding, pooled)
    with pytest.raises(UserError, match="pooling maximum: the network chooses how it is pooled by itself"):
        make(shapes=SHAPES._replace(pools=True), pooling="maximum")


def test_normalised_logits_and_features_by_hand() -> None:
    """LogitNorm and T2FNorm change what the loss sees, and nothing of the inference."""
    features = random_maps(4)
    plain, encoder = make(), GivenMaps(features)
    logits, embedding = plain(encoder, IMAGES).logits, pool(features)
    by_logits, by_features = make(logit_norm=0.04), make(feature_norm=0.1)
    expected = F.cross_entropy(logits / (0.04 * logits.norm(dim=1, keepdim=True)), LABELS)
    torch.testing.assert_close(by_logits.losses(encoder, (IMAGES, LABELS))["ce"], expected)
    shorter = embedding / (0.1 * embedding.norm(dim=1, keepdim=True))
    expected = F.cross_entropy(plain.classifier(shorter), LABELS)
    torch.testing.assert_close(by_features.losses(encoder, (IMAGES, LABELS))["ce"], expected)
    for objective in (by_logits, by_features):
        assert torch.equal(objective(encoder, IMAGES).logits, logits)


CLASSIFIERS = [{}, {"bias": False}, {"classifier": "cosine"}, {"classifier": "scaled_cosine"}]


@pytest.mark.parametrize("chosen", CLASSIFIERS)
def test_logits_are_linear_in_the_embedding_whatever_the_classifier(chosen: dict) -> None:
    objective = make(**chosen).eval()
    outputs = objective(GivenMaps(random_maps(4)), IMAGES)
    weight, bias = objective.linear_head()
    torch.testing.assert_close(outputs.logits, outputs.embedding @ weight.T + bias)
    assert bias.any().item() == (chosen == {})


def test_cosines_are_scikit_learns_and_the_scale_is_learned_in_training_alone() -> None:
    features = random_maps(4)
    expected = cosine_similarity(
        pool(features).numpy(), (fixed := make(classifier="cosine")).classifier.weight.detach()
    )
    np.testing.assert_allclose(fixed(GivenMaps(features), IMAGES).logits.detach(), 16 * expected, rtol=1e-4, atol=1e-5)
    learned = make(classifier="scaled_cosine")
    scales = learned.classifier.to_scale(pool(features)).exp()
    cosines = learned.eval()(GivenMaps(features), IMAGES).logits
    assert cosines.abs().max() <= 1
    torch.nn.init.constant_(learned.classifier.to_scale[1].bias, math.log(8.0))
    loss = learned.train().losses(GivenMaps(features), (IMAGES, LABELS))["ce"]
    torch.testing.assert_close(loss, F.cross_entropy(8 * cosines * scales, LABELS))
    # judged with one scale for all, the one that an average image has in training
    torch.testing.assert_close(learned.eval()(GivenMaps(features), IMAGES).logits, 8 * cosines)
    weight, _ = learned.linear_head()
    torch.testing.assert_close(weight.norm(dim=1), torch.full((len(weight),), 8.0))


def test_cosines_have_no_lengths_to_normalise() -> None:
    with pytest.raises(UserError, match="classifier cosine has features of length 1 already: leave feature_norm out"):
        CrossEntropyConfig(classifier="cosine", feature_norm=0.1)


@settings(max_examples=20, deadline=None)
@given(
    magnitude=st.floats(1e-3, 1e15),
    count=st.integers(1, 4),
    classes=st.integers(1, 4),
    smoothing=st.sampled_from([0.0, 0.1]),
    chosen=st.sampled_from([*CLASSIFIERS[:3], {"logit_norm": 0.04}, {"feature_norm": 0.1}]),
)
def test_losses_and_gradients_are_finite(
    magnitude: float, count: int, classes: int, smoothing: float, chosen: dict
) -> None:
    """One class in the batch, a single class in all, and huge features included."""
    objective = make(classes, label_smoothing=smoothing, center_weight=0.1, **chosen)
    encoder = GivenMaps(random_maps(count, scale=magnitude))
    terms = objective.losses(encoder, (IMAGES[:count], torch.full((count,), classes - 1)))
    assert all(torch.isfinite(value) for value in terms.values()), terms
    for gradient in torch.autograd.grad(torch.stack(list(terms.values())).sum(), list(objective.parameters())):
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_smoothing": 1.0}, "label_smoothing must lie in .0, 1., got 1.0"),
        ({"label_smoothing": -0.1}, "label_smoothing must lie in"),
        ({"center_weight": -1}, "center_weight must not be negative"),
        ({"smoothing": 0.1}, "no setting 'smoothing'"),
        ({"logit_norm": 0.04, "classifier": "cosine"}, "logit_norm takes the scale of classifier cosine away again"),
        ({"logit_norm": 0.04, "classifier": "scaled_cosine"}, "logit_norm takes the scale of classifier scaled_cosine"),
    ],
)
def test_wrong_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_objective_config("cross_entropy", settings, make_protocol("cifar10"), "retrain")
