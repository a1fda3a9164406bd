"""NC-D and NC-U against scikit-learn and explicit loops; the threshold picker by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, pairwise_distances

from nas_osr.errors import UserError
from nas_osr.metrics.open_set import f1_of_counts, label_counts
from nas_osr.outputs import Outputs
from nas_osr.scoring.centroids import NCDistance, NCUncertainty, f1_curve, pick_tau

KINDS = [NCDistance, NCUncertainty]


def latents(rows):
    return Outputs(embedding=torch.as_tensor(rows, dtype=torch.float64))


def make_outputs(size, num_known=3, dimensions=4, seed=0, spread=0.5, modes=1):
    """Latent means around `modes` points per class, and the targets in mixed order."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(num_known, (size,), generator=generator)
    mode = torch.randint(modes, (size,), generator=generator)
    centres = 8 * torch.randn(num_known, modes, dimensions, generator=torch.Generator().manual_seed(5))
    return Outputs(
        embedding=centres[targets, mode] + spread * torch.randn(size, dimensions, generator=generator)
    ), targets


def placed(kind, centroids, classes, **kinds):
    """A rule with given centroids."""
    rule = kind(**kinds)
    rule.centroids = torch.tensor(centroids, dtype=torch.float64)
    rule.classes = torch.tensor(classes)
    rule.num_known = max(classes) + 1
    return rule


def test_one_cluster_is_the_class_mean():
    outputs, targets = make_outputs(100)
    rule = NCDistance()
    rule.fit(outputs, targets)
    for label in range(3):
        torch.testing.assert_close(rule.centroids[label], outputs.embedding[targets == label].double().mean(0))
    assert rule.classes.tolist() == [0, 1, 2]


def test_subclusters_find_the_modes_and_are_reproducible():
    outputs, targets = make_outputs(300, modes=2, spread=0.01)
    rule, again = NCDistance(subclusters=[2, 1, 2]), NCDistance(subclusters=[2, 1, 2])
    rule.fit(outputs, targets)
    again.fit(outputs, targets)
    assert torch.equal(rule.centroids, again.centroids)
    assert rule.classes.tolist() == [0, 0, 1, 2, 2]
    nearest = -rule.scores(outputs).knownness
    assert (nearest[targets != 1] < 0.1).all()
    assert (nearest[targets == 1] > 1).all()
    assert torch.equal(rule.scores(outputs).labels[targets != 1], targets[targets != 1])


def test_a_class_has_at_most_as_many_centroids_as_different_images():
    rule = NCDistance(subclusters=3)
    rule.fit(
        Outputs(embedding=torch.tensor([[0.0], [0.0], [1.0], [5.0], [6.0], [7.0]]), logits=torch.zeros(6, 4)),
        torch.tensor([0, 0, 0, 3, 3, 3]),
    )
    assert rule.classes.tolist() == [0, 0, 3, 3, 3]
    assert sorted(rule.centroids.flatten().tolist()) == pytest.approx([0, 1, 5, 6, 7])
    assert rule.num_known == 4  # of the logits; classes 1 and 2 have no image and are never the label
    assert set(rule.scores(latents([[-9.0], [2.0], [4.0], [99.0]])).labels.tolist()) == {0, 3}
    assert rule.scores(latents([[2.0]])).class_scores.tolist() == [[-1.0, -math.inf, -math.inf, -3.0]]


@pytest.mark.parametrize("subclusters", [1, 3])
def test_scores_against_loops(subclusters):
    train, targets = make_outputs(200, modes=3)
    test, _ = make_outputs(60, seed=9, spread=4.0)
    distance, uncertainty = NCDistance(subclusters=subclusters), NCUncertainty(subclusters=subclusters)
    distance.fit(train, targets)
    uncertainty.fit(train, targets)
    table = pairwise_distances(test.embedding.double().numpy(), distance.centroids.numpy())
    nearest = table.argmin(axis=1)
    expected = [min(row) / np.mean([d for index, d in enumerate(row) if index != np.argmin(row)]) for row in table]
    np.testing.assert_allclose(distance.scores(test).knownness, -table.min(axis=1), rtol=1e-12)
    np.testing.assert_allclose(uncertainty.scores(test).knownness, -np.array(expected), rtol=1e-12)
    per_class = [[-min(row[label * subclusters : (label + 1) * subclusters]) for label in range(3)] for row in table]
    for rule in (distance, uncertainty):
        np.testing.assert_array_equal(rule.scores(test).labels, nearest // subclusters)
        np.testing.assert_allclose(rule.scores(test).class_scores, per_class, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_scores_alike_alone_and_among_others(kind):
    rule = kind(subclusters=2)
    rule.fit(*make_outputs(100))
    test, _ = make_outputs(20, seed=2)
    alone = torch.cat([rule.scores(test[index : index + 1]).knownness for index in range(20)])
    torch.testing.assert_close(rule.scores(test).knownness, alone, rtol=1e-14, atol=0)


def test_picker_by_hand():
    taus = np.arange(7) * 0.1
    # slopes 0.5, 3, 2, 0.3, 1, 0: steep first at 0.1, flat first after that at 0.3
    assert pick_tau(taus, np.cumsum([0, 0.05, 0.3, 0.2, 0.03, 0.1, 0.0])) == pytest.approx(0.3)
    # flat before it is steep does not count: slopes 0, 0, 2, 2, 2, 0
    assert pick_tau(taus, np.cumsum([0, 0, 0, 0.2, 0.2, 0.2, 0])) == pytest.approx(0.5)
    # falling is flat
    assert pick_tau(taus, np.cumsum([0, 0.2, -0.1, 0.2, 0.2, 0, 0])) == pytest.approx(0.1)
    # never steep, and never flat afterwards
    assert pick_tau(taus, np.cumsum([0, 0.14, 0.14, 0.14, 0.14, 0.14, 0])) is None
    assert pick_tau(taus, np.cumsum([0, 0, 0, 0, 0, 0, 0.2])) is None


def test_picker_includes_the_boundary_slopes():
    taus = np.array([0.0, 0.5, 1.0, 1.5, 2.0])
    assert pick_tau(taus, np.array([0.0, 0.75, 1.0, 1.2, 1.2])) == 1.0  # slopes 1.5, 0.5, 0.4, 0


def test_f1_curve_is_scikit_learns_over_the_known_labels():
    generator = np.random.default_rng(0)
    targets = generator.integers(4, size=200)
    labels = np.where(generator.random(200) < 0.8, targets, generator.integers(4, size=200))
    scores, limits = generator.random(200), np.array([0.0, 0.2, 0.5, 0.9, 2.0])
    expected = [
        f1_score(targets, np.where(scores < limit, labels, 4), labels=[0, 1, 2, 3], average="macro", zero_division=0)
        for limit in limits
    ]
    np.testing.assert_allclose(f1_curve(scores, labels, targets, 4, limits), expected)


@settings(max_examples=60, deadline=None)
@given(
    images=st.lists(
        st.tuples(st.integers(0, 5) | st.just(math.inf), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30
    ),
    limits=st.lists(st.integers(0, 6) | st.just(math.inf), min_size=1, max_size=8),
)
def test_f1_curve_equals_counting_at_every_limit(images, limits):
    """With ties, limits in any order, and classes that are not there."""
    scores, labels, targets = (np.array(column) for column in zip(*images, strict=True))
    expected = []
    for limit in limits:
        counts = label_counts(targets, np.where(scores >= limit, 4, labels), 4)
        expected.append(f1_of_counts(*counts).mean())
    np.testing.assert_array_equal(f1_curve(scores, labels, targets, 4, np.array(limits)), expected)


def test_f1_curve_rejects_the_limit_itself():
    one = np.array([0])
    assert f1_curve(np.array([0.5]), one, one, 1, np.array([0.5, np.nextafter(0.5, 1)])).tolist() == [0.0, 1.0]


def test_distance_threshold_by_hand():
    # one class at 0; d = 1, 2, 3, 4 and 20, so tau = d / 20 = .05, .1, .15, .2 and 1
    rule = placed(NCDistance, [[0.0]], [0], step=0.125)
    rule.set_threshold(latents([[1.0], [-2.0], [3.0], [4.0], [20.0]]), torch.zeros(5, dtype=torch.int64))
    # F1 of 0, 2, 5 * 4 of 5 accepted ...: 0 at 0, 4/7 at .125, 8/9 at .25 and until 1, then 1: slopes 4.6, 2.5, 0
    assert rule.picker == "derivative"
    assert rule.tau == 0.25
    source = rule.threshold_source()
    assert {name: source[name] for name in ("picker", "tau", "scale")} == {
        "picker": "derivative", "tau": 0.25, "scale": rule.scale,
    }  # fmt: skip
    assert source["curve"]["tau"][:4] == [0, 0.125, 0.25, 0.375]
    assert source["curve"]["f1"][:3] == pytest.approx([0, 4 / 7, 8 / 9])
    assert rule.scale == math.nextafter(20.0, math.inf)
    limit = rule.tau * rule.scale
    below = math.nextafter(limit, 0.0)
    assert rule.decide(rule.scores(latents([[limit], [-limit], [below], [0.0]]))).tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize("largest", [1e-3, 1.0, 3.0, 7.7, 1e6])
def test_tau_of_one_accepts_all_validation_images_of_distance(largest):
    rule = placed(NCDistance, [[0.0]], [0])
    rows = latents(np.linspace(0, largest, 50)[:, None])
    rule.set_threshold(rows, torch.zeros(50, dtype=torch.int64))
    assert (-rule.scores(rows).knownness < 1.0 * rule.scale).all()
    assert not (-rule.scores(rows).knownness < math.nextafter(1.0 * rule.scale, 0.0)).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [0.02, 0.05, 0.1])
def test_threshold_against_the_definition(kind, step):
    rule = kind(step=step)
    rule.fit(*make_outputs(200, spread=3.0))
    validation, targets = make_outputs(400, seed=1, spread=3.0)
    rule.set_threshold(validation, targets)
    scores = -rule.scores(validation).knownness.numpy()
    unit = np.nextafter(scores.max(), np.inf) if kind is NCDistance else 1.0

    def f1(tau):
        predicted = np.where(scores >= tau * unit, 3, rule.scores(validation).labels.numpy())
        return f1_score(targets, predicted, labels=[0, 1, 2], average="macro", zero_division=0)

    steep = None
    for index in range(1000):
        slope = (f1((index + 1) * step) - f1(index * step)) / step
        if steep is not None and slope <= 0.4:
            break
        if steep is None and slope >= 1.5:
            steep = index
    assert rule.picker == "derivative"
    assert rule.tau == pytest.approx(index * step)
    rejected = scores >= rule.tau * unit
    np.testing.assert_array_equal(rule.decide(rule.scores(validation)) == 3, rejected)
    assert 0 < rejected.mean() < 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_steep_slope_the_quantile_decides_and_says_so(kind):
    rule = placed(kind, [[0.0], *([[1.0]] * 5), *([[-1.0]] * 4)], list(range(10)), acceptance=0.8)
    rows = latents(np.linspace(-0.4, 0.4, 101)[:, None])
    rule.set_threshold(rows, torch.arange(101) % 10)  # all are called class 0: F1 hardly rises
    assert rule.picker == rule.state_dict()["picker"] == "quantile"
    assert rule.threshold == rule.quantile(rule.scores(rows).knownness, 1 - 0.8)
    assert (rule.decide(rule.scores(rows)) < 10).double().mean() == pytest.approx(0.8, abs=0.02)
    assert rule.tau * rule.scale == pytest.approx(-rule.threshold)


@pytest.mark.parametrize("kind", KINDS)
def test_one_centroid_in_all(kind):
    rule = kind()
    rule.fit(latents([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([0, 0]))
    test = latents([[2.0, 0.0], [2.0, 1.0], [1e30, 0.0]])
    torch.testing.assert_close(rule.scores(test).knownness, torch.tensor([0.0, -1.0, -1e30], dtype=torch.float64))
    rule.set_threshold(test[:2], torch.tensor([0, 0]))
    assert math.isfinite(rule.threshold)
    assert rule.decide(rule.scores(test)).tolist()[::2] == [0, 1]


def test_uncertainty_where_all_centroids_coincide():
    rule = placed(NCUncertainty, [[0.0], [0.0]], [0, 1])
    assert rule.scores(latents([[0.0], [2.0]])).knownness.tolist() == [0.0, -1.0]


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")  # points that differ by less than rounding
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(st.lists(st.floats(allow_nan=False), min_size=2, max_size=2), min_size=6, max_size=6),
    subclusters=st.integers(1, 3),
)
def test_any_latents_give_finite_scores_and_threshold(kind, rows, subclusters):
    outputs, targets = latents(rows), torch.tensor([0, 1, 0, 1, 0, 0])
    rule = kind(subclusters=subclusters)
    rule.fit(outputs[:5], targets[:5])
    rule.set_threshold(outputs[:5], targets[:5])
    knownness = rule.scores(outputs).knownness
    assert torch.isfinite(knownness).all()
    assert math.isfinite(rule.threshold)
    assert math.isfinite(rule.tau)
    assert torch.equal(rule.decide(rule.scores(outputs)) == 2, knownness < rule.threshold)


@pytest.mark.parametrize("kind", KINDS)
def test_state_survives_a_checkpoint(kind, tmp_path):
    rule = kind(subclusters=2)
    rule.fit(*make_outputs(100))
    rule.set_threshold(*make_outputs(50, seed=1))
    torch.save(rule.state_dict(), tmp_path / "rule.pt")
    other = kind()
    other.load_state_dict(torch.load(tmp_path / "rule.pt", weights_only=True))
    test, _ = make_outputs(50, seed=4, spread=5.0)
    assert torch.equal(other.scores(test).knownness, rule.scores(test).knownness)
    assert torch.equal(other.decide(other.scores(test)), rule.decide(rule.scores(test)))
    assert (other.tau, other.scale, other.picker) == (rule.tau, rule.scale, rule.picker)


@pytest.mark.parametrize(
    "setting",
    [{"subclusters": 0}, {"subclusters": []}, {"subclusters": [1, "2"]}, {"subclusters": "2"}, {"subclusters": True},
     {"step": 0}, {"step": 1}, {"step": math.nan}, {"step": "fine"}, {"seed": -1}],
)  # fmt: skip
def test_impossible_settings_are_refused(setting):
    with pytest.raises(UserError, match=f"'nc_distance': {next(iter(setting))} must"):
        NCDistance(**setting)


def test_impossible_images_are_refused():
    outputs, targets = make_outputs(30)
    with pytest.raises(UserError, match="no known training image"):
        NCDistance().fit(outputs[:0], targets[:0])
    with pytest.raises(UserError, match="lists 2 classes, there are 3"):
        NCDistance(subclusters=[1, 2]).fit(outputs, targets)
    rule = NCDistance()
    rule.fit(outputs, targets)
    outputs.embedding[3, 0] = math.nan
    with pytest.raises(UserError, match="'nc_distance'.*diverged"):
        rule.set_threshold(outputs, targets)
    with pytest.raises(UserError, match="'nc_distance'.*diverged"):
        rule.fit(outputs, targets)
