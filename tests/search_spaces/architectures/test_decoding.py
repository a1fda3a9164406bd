"""The best path, decoding, and the weights in a record of a search."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas_osr.errors import UserError
from nas_osr.search_spaces.architectures.architecture import Architecture, Branch
from nas_osr.search_spaces.architectures.decoding import ArchitectureWeights, best_path, decode, weights_from_record
from nas_osr.search_spaces.architectures.references import published
from nas_osr.search_spaces.space import Space, all_paths, cells, mixing_cells

BRANCHES = st.sampled_from([(2,), (1, 2), (0, 2), (0, 1, 2)])


@st.composite
def betas(draw, layers, branches, values):
    return {cell: (p, 1 - p) for cell in mixing_cells(layers, branches) for p in [draw(values)]}


def product_along(path, beta):
    """The definition, cell by cell."""
    probability = 1
    for layer in range(1, len(path)):
        if 1 <= path[layer] <= layer - 1:  # both sources exist
            probability *= beta[layer, path[layer]][0 if path[layer - 1] < path[layer] else 1]
    return probability


@given(data=st.data(), layers=st.integers(3, 9), branches=BRANCHES)
def test_best_path_is_the_best_of_all_paths(data, layers, branches):
    beta = data.draw(betas(layers, branches, st.floats(0, 1)))
    for branch in branches:
        probabilities = {path: product_along(path, beta) for path in all_paths(layers, branch)}
        best = best_path(layers, branch, beta)
        assert best in probabilities
        assert probabilities[best] >= max(probabilities.values()) * (1 - 1e-9)


@given(data=st.data(), layers=st.integers(3, 7))
def test_ties_halve_as_late_as_possible(data, layers):
    pairs = st.sampled_from([(0.5, 0.5), (0.3, 0.7), (0.7, 0.3)])
    beta = {cell: data.draw(pairs) for cell in mixing_cells(layers, (2,))}
    exact = {cell: tuple(Fraction(str(p)) for p in pair) for cell, pair in beta.items()}
    probabilities = {path: product_along(path, exact) for path in all_paths(layers, 2)}
    winners = [path for path, p in probabilities.items() if p == max(probabilities.values())]
    assert best_path(layers, 2, beta) == min(winners)


def test_zeros_are_avoided_or_else_as_few_as_possible():
    beta = dict.fromkeys(mixing_cells(4, (2,)), (0.5, 0.5))
    beta[3, 2] = (0.0, 1.0)  # only reached from the same scale: halve twice at once
    assert best_path(4, 2, beta) == (0, 1, 2, 2)
    beta = dict.fromkeys(mixing_cells(4, (2,)), (0.0, 0.0))
    # The path [0, 0, 1, 2] meets two zeros, [0, 1, 1, 2] two, [0, 1, 2, 2] one.
    assert best_path(4, 2, beta) == (0, 1, 2, 2)


@pytest.mark.parametrize("bad", [math.nan, -0.1, 1.1, math.inf])
def test_a_beta_that_is_no_probability_is_an_error(bad):
    beta = dict.fromkeys(mixing_cells(4, (2,)), (0.5, 0.5)) | {(2, 1): (bad, 0.5)}
    with pytest.raises(ValueError, match="2/1"):
        best_path(4, 2, beta)


def test_decode_by_hand():
    space = Space(layers=4, channels=8)
    beta = {(2, 1): (0.9, 0.1), (3, 2): (0.8, 0.2)}  # 0 -> 0 -> 1 -> 2: product 0.72
    alpha = dict.fromkeys(cells(4, (2,)), (0.2, 0.3, 0.5))
    alpha[1, 0] = (0.4, 0.4, 0.2)  # a tie: the first wins
    alpha[3, 2] = (0.1, 0.8, 0.1)
    assert decode(space, ArchitectureWeights(alpha, beta)).branches == {
        2: Branch((0, 0, 1, 2), ("conv2", "skip", "conv2", "conv"))
    }
    alpha[3, 2] = (0.1, math.nan, 0.1)
    with pytest.raises(ValueError, match="3/2"):
        decode(space, ArchitectureWeights(alpha, beta))


@given(data=st.data(), layers=st.integers(3, 8), branches=BRANCHES)
def test_decoded_branches_always_make_an_architecture(data, layers, branches):
    space = Space(layers=layers, channels=8, operations=("skip", "conv"), branches=branches)
    beta = data.draw(betas(layers, branches, st.sampled_from([0.0, 0.5, 0.3, 1.0])))
    alpha = {cell: data.draw(st.tuples(st.floats(0, 1), st.floats(0, 1))) for cell in cells(layers, branches)}
    assert decode(space, ArchitectureWeights(alpha, beta)).space == space


def test_choices_and_second_inputs_are_decoded():
    """Each the most probable, `none` never; and the way to a second input is the best one to where it comes from."""
    space = Space(4, 16, ("none", "conv"), poolings=("average", "both"), outputs=(1, 2), two_inputs=True)
    alpha = dict.fromkeys(space.cells, (0.9, 0.1))
    beta = {(2, 1): (0.1, 0.9), (3, 1): (0.2, 0.8), (3, 2): (0.8, 0.2)}
    join = {(2, 1): (0.4, 0.6), (3, 1): (0.5, 0.5), (3, 2): (0.1, 0.9)}
    found = decode(space, ArchitectureWeights(alpha, beta, {"pooling": (0.4, 0.6), "output": (0.7, 0.3)}, join))
    assert found.choices == {"pooling": "both", "output": 1}
    assert found.branches == {1: Branch((0, 1, 1, 1), ("conv",) * 4)}
    assert found.joins == {(2, 1): Branch((0, 0), ("conv",) * 2)}  # not that of 3/1, where both are as probable
    other = decode(space, ArchitectureWeights(alpha, beta, {"pooling": (0.5, 0.5), "output": (0.3, 0.7)}, join))
    assert other.choices == {"pooling": "average", "output": 2}
    assert other.branches[2].path == (0, 1, 1, 2)
    assert {cell: way.path for cell, way in other.joins.items()} == {(2, 1): (0, 0), (3, 2): (0, 1, 2)}


@given(data=st.data(), layers=st.integers(3, 7), branches=BRANCHES)
def test_second_inputs_always_agree_with_the_paths(data, layers, branches):
    space = Space(layers, 8, ("skip", "conv"), branches=branches, two_inputs=True)
    beta = data.draw(betas(layers, branches, st.sampled_from([0.0, 0.5, 0.3, 1.0])))
    alpha = {cell: data.draw(st.sampled_from([(0.1, 0.9), (0.9, 0.1)])) for cell in space.cells}
    join = {cell: data.draw(st.sampled_from([(0.1, 0.9), (0.9, 0.1)])) for cell in mixing_cells(layers, branches)}
    found = decode(space, ArchitectureWeights(alpha, beta, join=join))
    assert Architecture.from_json(found.to_json(), "again") == found


def record():
    """A record as `history.jsonl` has it, keys in another order than the space's."""
    space = published().space
    return {
        "epoch": 3,
        "alpha": {
            f"{layer}/{scale}": {"conv": 0.1, "conv2": 0.6, "skip": 0.3} for layer, scale in cells(space.layers, (2,))
        },
        "beta": {f"{layer}/{scale}": {"same": 0.3, "finer": 0.7} for layer, scale in mixing_cells(space.layers, (2,))},
    }


def test_weights_of_a_record():
    space = published().space
    weights = weights_from_record(record(), space)
    assert weights.alpha == dict.fromkeys(cells(6, (2,)), (0.3, 0.1, 0.6))
    assert weights.beta == dict.fromkeys(mixing_cells(6, (2,)), (0.7, 0.3))
    with_single = record()
    with_single["beta"]["1/1"] = {"finer": 1.0, "same": 0.0}
    assert weights_from_record(with_single, space) == weights
    assert weights_from_record({"epoch": 3, "alpha": None}, space) is None


@pytest.mark.parametrize(
    ("kind", "cell", "value"),
    [
        ("alpha", "2/1", None),
        ("alpha", "2/1", {"conv": 1.0}),
        ("alpha", "2/1", {"conv": 0.5, "conv2": 0.5, "pool": 0.0}),
        ("alpha", "2/1", {"conv": 0.5, "conv2": 0.5, "skip": 0.5}),
        ("alpha", "2/1", {"conv": True, "conv2": 0, "skip": 0}),
        ("beta", "3/2", {"finer": math.nan, "same": 0.5}),
        ("beta", "3/2", {"finer": "0.5", "same": 0.5}),
        ("beta", "3/2", [0.5, 0.5]),
    ],
)
def test_bad_weights_are_named(kind, cell, value):
    bad = record()
    bad[kind][cell] = value
    with pytest.raises(UserError, match=f"epoch 3: {kind} of cell {cell}"):
        weights_from_record(bad, published().space, "epoch 3")
    del bad[kind]
    with pytest.raises(UserError, match=f"history: {kind}"):
        weights_from_record(bad, published().space)
