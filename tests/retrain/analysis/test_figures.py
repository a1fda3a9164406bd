"""The figures of the analyses on cases made by hand: shares, accuracies, dimensions, corruptions, saliency."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import top_k_accuracy_score
from torch import Tensor, nn

from nas_osr.errors import UserError
from nas_osr.evaluation.predictions import Predictions
from nas_osr.outputs import Features
from nas_osr.retrain.analysis.base import require
from nas_osr.retrain.analysis.confusion import confusion
from nas_osr.retrain.analysis.corruption import CORRUPTIONS, OWN_RANDOMNESS, corrupt
from nas_osr.retrain.analysis.dimension import ESTIMATORS, estimate
from nas_osr.retrain.analysis.frozen_network import draw_sample
from nas_osr.retrain.analysis.probe import linear_probe
from nas_osr.retrain.analysis.saliency import Saliency


def predictions(rows: list[tuple[int, str, int, int]], num_known: int) -> Predictions:
    """From (true label, true class, predicted label, closed-set label)."""
    true, classes, predicted, closed = zip(*rows, strict=True)
    count = len(rows)
    return Predictions(
        index=np.arange(count),
        true_label=np.array(true),
        true_class=np.array(classes),
        predicted_label=np.array(predicted),
        closed_set_label=np.array(closed),
        knownness=np.zeros(count),
        class_scores=np.zeros((count, num_known)),
    )


CASE = [
    (0, "cat", 0, 0), (1, "car", 1, 1), (1, "truck", 3, 0),  # label 1 merges two classes; nothing tested of label 2
    (3, "dog", 0, 0), (3, "dog", 0, 0), (3, "dog", 3, 1), (3, "dog", 1, 1),
    (3, "bird", 3, 2), (3, "bird", 3, 2),
]  # fmt: skip


def test_confusion_of_a_case_worked_by_hand() -> None:
    figures = confusion(predictions(CASE, 3))
    assert figures["known"] == ["cat", "car+truck", "2"]
    assert list(figures["unknown"]) == ["bird", "dog"]
    assert figures["unknown"]["dog"] == {
        "images": 4, "shares": [0.5, 0.25, 0.0], "rejected": 0.25, "mistaken_for": "cat",
    }  # fmt: skip
    assert figures["unknown"]["bird"] == {
        "images": 2, "shares": [0.0, 0.0, 0.0], "rejected": 1.0, "mistaken_for": None,
    }  # fmt: skip


def test_confusion_without_the_threshold() -> None:
    figures = confusion(predictions(CASE, 3), closed=True)["unknown"]
    assert figures["dog"] == {"images": 4, "shares": [0.5, 0.5, 0.0], "rejected": None, "mistaken_for": "cat"}
    assert figures["bird"]["shares"] == [0.0, 0.0, 1.0] and figures["bird"]["mistaken_for"] == "2"


def blobs(classes: int, spread: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), 30)
    # features of very different sizes
    centres = generator.normal(size=(classes, 12)) * np.logspace(-3, 3, 12)
    noise = spread * np.logspace(-3, 3, 12)
    train, test = (centres[labels] + noise * generator.normal(size=(len(labels), 12)) for _ in range(2))
    return train, labels, test, labels


def test_a_probe_separates_what_is_separable() -> None:
    figures = linear_probe(*blobs(7, 0.05), inverse_penalty=1.0, iterations=500)
    assert figures == {"top1": 1.0, "top5": 1.0, "train_top1": 1.0, "converged": True, "width": 12}


@pytest.mark.parametrize("classes", [2, 5, 8])
def test_a_probe_is_sklearns_own_with_its_top_5(classes: int) -> None:
    from sklearn.linear_model import LogisticRegression

    train, labels, test, _ = blobs(classes, 3.0)
    figures = linear_probe(train, labels, test, labels, inverse_penalty=0.1, iterations=2000)
    mean, std = train.mean(axis=0), train.std(axis=0)
    model = LogisticRegression(C=0.1, max_iter=2000).fit((train - mean) / std, labels)
    assert figures["top1"] == pytest.approx(model.score((test - mean) / std, labels))
    assert 0.2 < figures["top1"] < 0.95
    if classes <= 5:
        assert figures["top5"] is None
    else:
        scores = model.predict_proba((test - mean) / std)
        assert figures["top5"] == pytest.approx(top_k_accuracy_score(labels, scores, k=5))
        assert figures["top1"] < figures["top5"] < 1.0


def test_a_probe_says_when_it_has_not_converged() -> None:
    assert not linear_probe(*blobs(7, 3.0), inverse_penalty=100.0, iterations=1)["converged"]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_plane_in_ten_dimensions_has_two(estimator: str) -> None:
    pytest.importorskip("skdim", reason="scikit-dimension is not installed: pip install 'nas-osr[analysis]'")
    generator = np.random.default_rng(0)
    plane = (generator.normal(size=(1500, 2)) @ generator.normal(size=(2, 10))).astype(np.float32)
    value = estimate(plane, estimator)
    assert value == pytest.approx(2.0, abs=0.15)
    # points that occur again change nothing
    assert estimate(np.concatenate([plane, plane[:700]]), estimator) == value
    solid = generator.normal(size=(1500, 5))
    assert 4.0 < (estimate(solid, estimator) or 0.0) < 5.5
    assert estimate(np.repeat(solid[:9], 5, axis=0), estimator) is None


@given(size=st.integers(1, 50), limit=st.none() | st.integers(1, 60), seed=st.integers(0, 5))
def test_a_sample_is_distinct_ascending_and_repeats(size: int, limit: int | None, seed: int) -> None:
    index = draw_sample(size, limit, seed, "x")
    assert len(index) == (size if limit is None else min(size, limit))
    assert index.tolist() == sorted(set(index.tolist())) and 0 <= int(index[0]) and int(index[-1]) < size
    assert torch.equal(index, draw_sample(size, limit, seed, "x"))


def test_samples_differ_by_stream_and_refuse_nothing() -> None:
    assert not torch.equal(draw_sample(100, 10, 0, "x"), draw_sample(100, 10, 0, "y"))
    with pytest.raises(UserError, match="limit"):
        draw_sample(10, 0, 0)


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skdim", None)
    with pytest.raises(UserError, match=r"needs skdim.*pip install 'nas-osr\[analysis\]'"):
        require("skdim")


class TestCorruptions:
    @pytest.fixture(autouse=True)
    def _library(self) -> None:
        pytest.importorskip("imagecorruptions", reason="imagecorruptions-imaug is not installed: the extra `analysis`")

    @staticmethod
    def images(side: int, channels: int = 3) -> Tensor:
        """Smooth random pictures."""
        coarse = torch.rand(2, channels, 5, 5, generator=torch.Generator().manual_seed(0)) * 255
        return F.interpolate(coarse, size=(side, side), mode="bilinear").to(torch.uint8)

    @pytest.mark.parametrize("side", [32, 64])
    @pytest.mark.parametrize("kind", CORRUPTIONS)
    def test_every_kind_repeats_and_keeps_numpys_state(self, kind: str, side: int) -> None:
        images = self.images(side)
        np.random.seed(5)  # noqa: NPY002 - the state that is to be kept
        expected = np.random.random()  # noqa: NPY002
        np.random.seed(5)  # noqa: NPY002
        distances = []
        for severity in range(1, 6):
            first = corrupt(images, kind, severity, [1, 2**62])
            assert first.shape == images.shape and first.dtype == torch.uint8
            assert torch.equal(corrupt(images, kind, severity, [1, 2**62]), first)
            # an image's corruption does not hang on the others
            assert torch.equal(corrupt(images[1:], kind, severity, [2**62])[0], first[1])
            distances.append(float((first.float() - images).abs().mean()))
        assert np.random.random() == expected  # noqa: NPY002
        assert all(distance > 0.2 for distance in distances)
        if kind != "frost":  # which of six pictures of frost it is matters more
            assert distances[4] > distances[0]

    @pytest.mark.parametrize("kind", ["gaussian_noise", *OWN_RANDOMNESS])
    def test_seeds_matter(self, kind: str) -> None:
        images = self.images(32)
        assert not torch.equal(corrupt(images, kind, 3, [1, 2]), corrupt(images, kind, 3, [3, 4]))

    def test_gaussian_noise_is_what_it_says(self) -> None:
        images = self.images(32)[:1]
        picture = images[0].permute(1, 2, 0).numpy() / 255.0
        generator = np.random.RandomState(7)
        noisy = np.uint8(np.clip(picture + generator.normal(size=picture.shape, scale=0.08), 0, 1) * 255)
        assert np.array_equal(corrupt(images, "gaussian_noise", 1, [7])[0].permute(1, 2, 0).numpy(), noisy)

    def test_grey_images_stay_grey_and_as_noisy(self) -> None:
        grey = torch.full((4, 1, 32, 32), 128, dtype=torch.uint8)
        result = corrupt(grey, "gaussian_noise", 1, [1, 2, 3, 4])
        assert result.shape == grey.shape
        assert float(result.float().std()) / 255 == pytest.approx(0.08, rel=0.05)

    def test_other_shapes_are_refused(self) -> None:
        for shape in ((1, 3, 16, 32), (1, 2, 32, 32)):
            with pytest.raises(UserError, match="corruptions need"):
                corrupt(torch.zeros(shape, dtype=torch.uint8), "fog", 1, [0])


class Encoder(nn.Module):
    """One convolution, as the map at scale 2; the stem's map is the image."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 3, 3, stride=4, bias=False)
        self.convolution.weight.data.abs_()  # or no place might matter

    def forward(self, images: Tensor) -> Features:
        return Features({2: self.convolution(images)}, {-1: images})


class Toy(nn.Module):
    """A learner whose loss also sees other images, before or after the batch, or views in place of it."""

    def __init__(self, order: str) -> None:
        super().__init__()
        self.encoder, self.order = Encoder(), order

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        other = torch.rand_like(images)
        calls = {"before": [other, images], "after": [images, other], "views": [torch.cat([images, other]) + 1]}
        maps = [self.encoder(batch).branches[2] for batch in calls[self.order]]
        return {"a": sum((map_[:, 0].square() + map_[:, 1]).sum() for map_ in maps), "b": maps[0].square().mean()}  # type: ignore[dict-item]


@pytest.mark.parametrize("weights", ["layercam", "gradcam"])
@pytest.mark.parametrize("order", ["before", "after", "views"])
def test_saliency_is_that_of_the_batch_itself_or_of_its_views(order: str, weights: str) -> None:
    torch.manual_seed(0)
    toy, images, labels = Toy(order), torch.rand(3, 1, 16, 16), torch.tensor([0, 1, 0])
    opened: Any = SimpleNamespace(learner=toy, fabric=SimpleNamespace(device=torch.device("cpu")))
    kind = Saliency("run", weights=weights)
    torch.manual_seed(1)
    pictures, found = kind.batch_saliency(opened, images, labels)
    assert found.shape == (len(pictures), 16, 16) and not toy.encoder._forward_hooks
    if order == "views":
        assert len(pictures) == 6 and torch.equal(pictures[:3], images + 1)
    else:
        assert pictures is images

    maps = toy.encoder(pictures).branches[2].detach()
    count = maps.numel()
    gradient = torch.stack([2 * maps[:, 0], torch.ones_like(maps[:, 1]), torch.zeros_like(maps[:, 2])], dim=1)
    gradient = gradient + (2 * maps / count if order != "before" else 0)  # `b` is of the first call's maps
    weight = gradient.relu() if weights == "layercam" else gradient.mean(dim=(2, 3), keepdim=True)
    expected = F.interpolate((weight * maps).sum(dim=1, keepdim=True).relu(), (16, 16), mode="bilinear")[:, 0]
    assert torch.allclose(found, expected, atol=1e-6)
    assert float(expected.max()) > 1e-3


def test_saliency_names_a_scale_that_is_not_there() -> None:
    opened: Any = SimpleNamespace(learner=Toy("after"), fabric=SimpleNamespace(device=torch.device("cpu")))
    with pytest.raises(UserError, match="no map at scale 0; choose of -1, 2"):
        Saliency("run", scales=[0, 2]).batch_saliency(opened, torch.rand(2, 1, 16, 16), torch.zeros(2).long())
