"""Top-k similarity against scikit-learn's nearest neighbours, in blocks, alone, and on extreme embeddings."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from nas_osr.errors import UserError
from nas_osr.outputs import Outputs
from nas_osr.scoring.neighbours import KNN, Neighbours, NNGuide, normalise


def make_outputs(size, num_known=3, dimensions=8, seed=0, spread=1.0):
    """Embeddings without logits, clustered by class, and the targets in mixed order."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(num_known, (size,), generator=generator)
    centres = 2 * torch.eye(num_known, dimensions)
    return Outputs(embedding=centres[targets] + spread * torch.randn(size, dimensions, generator=generator)), targets


def fitted(size=200, seed=1, **settings_):
    rule = Neighbours(**settings_)
    rule.fit(*make_outputs(size, seed=seed))
    return rule


def oracle(train, targets, test, k, num_known):
    """[B, N] class scores by exact nearest neighbours; no class has fewer than k images."""
    columns = []
    for label in range(num_known):
        search = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute")
        search.fit(train.double().numpy()[targets.numpy() == label])
        columns.append((1 - search.kneighbors(test.double().numpy())[0]).sum(axis=1))
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("k", [1, 10, 30])
def test_scores_are_those_of_scikit_learn(k):
    train, targets = make_outputs(200, seed=1)
    test, _ = make_outputs(80, seed=2)
    rule = Neighbours(k=k)
    rule.fit(train, targets)
    expected = oracle(train.embedding, targets, test.embedding, k, 3)
    np.testing.assert_allclose(rule.scores(test).class_scores, expected, atol=1e-12)
    np.testing.assert_allclose(rule.scores(test).knownness, expected.max(axis=1), atol=1e-12)
    np.testing.assert_array_equal(rule.scores(test).labels, expected.argmax(axis=1))


@pytest.mark.parametrize("block_size", [1, 7, 64])
def test_blocks_equal_no_blocks(block_size):
    test, _ = make_outputs(50, seed=2)
    whole, blocks = fitted().scores(test).class_scores, fitted(block_size=block_size).scores(test).class_scores
    torch.testing.assert_close(blocks, whole, rtol=0, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(any),
    queries=st.integers(1, 12),
    k=st.integers(1, 12),
    block_size=st.integers(1, 15),
    seed=st.integers(0, 9),
)
def test_any_blocks_equal_all_similarities_sorted(counts, queries, k, block_size, seed):
    """Classes of any size, smaller than k and than a block; against one whole table of cosines per class."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    targets = targets[torch.randperm(len(targets), generator=generator)]
    train, test = (torch.randn(size, 5, generator=generator) for size in (len(targets), queries))
    rule = Neighbours(k=k, block_size=block_size)
    rule.fit(Outputs(embedding=train, logits=torch.zeros(len(train), len(counts))), targets)
    cosines = torch.nn.functional.cosine_similarity(test.double()[:, None], train.double(), dim=2)
    expected = []
    for label, count in enumerate(counts):
        best = cosines[:, targets == label].sort(dim=1, descending=True).values[:, :k]
        expected.append(best.sum(dim=1) * k / min(k, count) if count else torch.full((queries,), -math.inf).double())
    found = rule.scores(Outputs(embedding=test)).class_scores
    torch.testing.assert_close(found, torch.stack(expected, dim=1), rtol=0, atol=1e-12)


def test_an_image_scores_alike_alone_and_among_others():
    test, _ = make_outputs(20, seed=2)
    rule = fitted()
    alone = torch.cat([rule.scores(test[index : index + 1]).class_scores for index in range(20)])
    torch.testing.assert_close(rule.scores(test).class_scores, alone, rtol=0, atol=1e-12)


def test_a_small_class_is_scaled_to_k_and_an_empty_one_is_never_the_label():
    rule = Neighbours(k=4)
    embedding = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [4.0, 0.0], [9.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    rule.fit(Outputs(embedding=embedding, logits=torch.zeros(7, 3)), torch.tensor([0, 0, 0, 0, 0, 2, 2]))
    scores = rule.scores(Outputs(embedding=torch.tensor([[5.0, 0.0], [0.0, 0.1]]))).class_scores
    half = math.sqrt(0.5)
    expected = torch.tensor([[4.0, -math.inf, 2 * half], [0.0, -math.inf, 2 * (1 + half)]], dtype=torch.float64)
    torch.testing.assert_close(scores, expected)
    assert rule.scores(Outputs(embedding=torch.tensor([[5.0, 0.0], [0.0, 0.1]]))).labels.tolist() == [0, 2]


def test_zero_vectors_are_similar_to_nothing():
    rule = Neighbours(k=2)
    rule.fit(Outputs(embedding=torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])), torch.tensor([0, 0, 1]))
    scores = rule.scores(Outputs(embedding=torch.tensor([[0.0, 0.0], [3.0, 0.0]]))).class_scores
    assert scores.tolist() == [[0.0, 0.0], [1.0, 0.0]]


def test_predict_needs_no_logits_and_accepts_its_share():
    rule = fitted(acceptance=0.9)
    validation, targets = make_outputs(101, seed=3)
    rule.set_threshold(validation, targets)
    predicted = rule.decide(rule.scores(validation))
    assert (predicted < 3).sum() == 91
    assert set(predicted[predicted >= 3].tolist()) == {3}
    rejected = rule.scores(validation).knownness < rule.threshold
    assert torch.equal(predicted, torch.where(rejected, 3, rule.scores(validation).labels))
    opposite = Outputs(embedding=-10 * torch.ones(5, 8))
    assert (rule.decide(rule.scores(opposite)) == 3).all()


def test_number_of_classes_comes_from_logits_then_objective_then_targets():
    class Five:
        num_classes = 5

    outputs, targets = make_outputs(50)
    rule = Neighbours()
    for logits, objective, expected in [(torch.zeros(50, 4), Five(), 4), (None, Five(), 5), (None, None, 3)]:
        rule.fit(Outputs(embedding=outputs.embedding, logits=logits), targets, objective)
        assert rule.scores(outputs).class_scores.shape == (50, expected)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    st.lists(st.lists(st.floats(allow_nan=False), min_size=3, max_size=3), min_size=6, max_size=6),
)
def test_any_embedding_gives_a_finite_score(dtype, rows):
    embedding = torch.tensor(rows, dtype=torch.float64).to(dtype)
    lengths = normalise(embedding).norm(dim=1)
    nonzero = (embedding != 0).any(dim=1)
    torch.testing.assert_close(lengths, nonzero.double(), rtol=0, atol=1e-12)
    rule = Neighbours(k=2)
    rule.fit(Outputs(embedding=embedding[:4]), torch.tensor([0, 1, 0, 0]))
    knownness = rule.scores(Outputs(embedding=embedding)).knownness
    assert torch.isfinite(knownness).all()
    assert (knownness.abs() <= 2 + 1e-12).all()


@pytest.mark.parametrize("setting", [{"k": 0}, {"k": 2.5}, {"k": True}, {"block_size": -1}])
def test_impossible_settings_are_refused(setting):
    with pytest.raises(UserError, match=f"'neighbours': {next(iter(setting))} must be a whole number"):
        Neighbours(**setting)


def test_missing_or_diverged_images_are_refused():
    outputs, targets = make_outputs(10)
    with pytest.raises(UserError, match="no known training image"):
        Neighbours().fit(outputs[:0], targets[:0])
    outputs.embedding[3, 0] = math.nan
    with pytest.raises(UserError, match="'neighbours'.*diverged"):
        fitted().set_threshold(outputs, targets)
    with pytest.raises(RuntimeError, match="fit"):
        Neighbours().scores(outputs)


@pytest.mark.parametrize(("k", "block_size"), [(1, 2048), (25, 30)])
def test_knn_is_the_distance_of_pytorch_ood(k, block_size):
    from pytorch_ood import detector

    train, targets = make_outputs(200, seed=1)
    test, _ = make_outputs(80, seed=2)
    rule, oracle_ = KNN(k=k, block_size=block_size), detector.KNN(None, k=k)
    rule.fit(train, targets)
    oracle_.fit_features(train.embedding.double(), targets)
    distance = oracle_.predict_features(test.embedding.double())
    scores = rule.scores(test)
    torch.testing.assert_close((2 - 2 * scores.knownness).sqrt(), distance, rtol=0, atol=1e-7)
    sums = Neighbours(k=k)
    sums.fit(train, targets)
    torch.testing.assert_close(scores.class_scores, sums.scores(test).class_scores)


def test_knn_of_fewer_images_takes_the_farthest():
    rule = KNN(k=50)
    rule.fit(Outputs(embedding=torch.eye(3)), torch.arange(3))
    assert rule.scores(Outputs(embedding=torch.tensor([[3.0, 4.0, 1.0]]))).knownness.item() == pytest.approx(26**-0.5)


@pytest.mark.parametrize("block_size", [2048, 30])
def test_nnguide_is_that_of_pytorch_ood(block_size):
    from pytorch_ood import detector

    head = torch.nn.Linear(8, 3).double().requires_grad_(False)
    parts = []
    for size, seed in ((200, 1), (80, 2)):
        outputs, targets = make_outputs(size, seed=seed)
        features = outputs.embedding.double()
        parts.append((Outputs(embedding=features, logits=head(features)), targets))
    rule, oracle_ = NNGuide(k=7, block_size=block_size), detector.NNGuide(None, head.float(), k=7)
    rule.fit(*parts[0])
    oracle_.fit_features(parts[0][0].embedding.float(), parts[0][1])
    outliers = oracle_.predict_features(parts[1][0].embedding.float())
    scores = rule.scores(parts[1][0])
    torch.testing.assert_close(scores.knownness, -outliers.double(), rtol=1e-5, atol=1e-6)
    assert torch.equal(scores.labels, parts[1][0].logits.argmax(dim=1))
