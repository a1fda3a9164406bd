"""Best path, decoding, and the graph and GraphML forms of an architecture."""

from __future__ import annotations

import math
import re
from fractions import Fraction

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_osr.errors import UserError
from nas_osr.search_spaces.architectures.architecture import Architecture, Branch
from nas_osr.search_spaces.architectures.graph import (
    ArchitectureWeights,
    best_path,
    decode,
    format_graphml,
    from_graph,
    parse_graphml,
    path_probability,
    read_graphml,
    to_graph,
    weights_from_graph,
    weights_from_record,
)
from nas_osr.search_spaces.architectures.references import published, sample_architecture
from nas_osr.search_spaces.space import STEMS, SpaceDescription, all_paths, cells, mixing_cells

BRANCHES = st.sampled_from([(2,), (1, 2), (0, 2), (0, 1, 2)])
TEXT_OR_NUMBER = st.text(max_size=6) | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def betas(draw, layers, branches, values):
    return {cell: (p, 1 - p) for cell in mixing_cells(layers, branches) for p in [draw(values)]}


@st.composite
def weighted_architectures(draw):
    layers, branches = draw(st.integers(3, 8)), draw(BRANCHES)
    space = SpaceDescription(
        layers=layers,
        channels=draw(st.integers(1, 512)),
        operations=("skip", "conv", "a.b.Op"),
        stem=draw(st.sampled_from(STEMS)),
    )
    found = draw(st.dictionaries(st.text(max_size=6), TEXT_OR_NUMBER | st.lists(TEXT_OR_NUMBER, max_size=2)))
    sample = sample_architecture(space, branches, draw(st.integers(0, 999)))
    alpha = {}
    for cell in cells(layers, branches):
        shares = draw(st.tuples(*[st.floats(0.01, 1)] * 3))
        alpha[cell] = tuple(share / sum(shares) for share in shares)
    weights = ArchitectureWeights(alpha, draw(betas(layers, branches, st.floats(0, 1))))
    return Architecture(space, sample.branches, found), weights


def product_along(path, beta):
    """The definition, cell by cell: an oracle for `path_probability`."""
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
        for path, probability in probabilities.items():
            assert path_probability(path, beta) == pytest.approx(probability, rel=1e-12)


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
    space = SpaceDescription(layers=4, channels=8)
    beta = {(2, 1): (0.9, 0.1), (3, 2): (0.8, 0.2)}  # 0 -> 0 -> 1 -> 2: product 0.72
    alpha = dict.fromkeys(cells(4, (2,)), (0.2, 0.3, 0.5))
    alpha[1, 0] = (0.4, 0.4, 0.2)  # a tie: the first wins
    alpha[3, 2] = (0.1, 0.8, 0.1)
    assert decode(space, (2,), alpha, beta) == {2: Branch((0, 0, 1, 2), ("conv2", "skip", "conv2", "conv"))}
    assert path_probability((0, 0, 1, 2), beta) == pytest.approx(0.72)
    alpha[3, 2] = (0.1, math.nan, 0.1)
    with pytest.raises(ValueError, match="3/2"):
        decode(space, (2,), alpha, beta)


@given(data=st.data(), layers=st.integers(3, 8), branches=BRANCHES)
def test_decoded_branches_always_make_an_architecture(data, layers, branches):
    space = SpaceDescription(layers=layers, channels=8, operations=("skip", "conv"))
    beta = data.draw(betas(layers, branches, st.sampled_from([0.0, 0.5, 0.3, 1.0])))
    alpha = {cell: data.draw(st.tuples(st.floats(0, 1), st.floats(0, 1))) for cell in cells(layers, branches)}
    Architecture(space, decode(space, branches, alpha, beta))


@settings(max_examples=60)
@given(weighted_architectures())
def test_json_to_graphml_to_json_loses_nothing(pair):
    architecture, weights = pair
    for given_weights in (None, weights):
        text = format_graphml(to_graph(architecture, given_weights))
        graph = parse_graphml(text, "text")
        again = from_graph(graph, "text")
        assert again.to_json() == architecture.to_json()
        assert weights_from_graph(graph, again, "text") == given_weights
        assert format_graphml(to_graph(again, given_weights)) == text


def test_the_graph_holds_the_whole_space():
    architecture = published()
    beta = dict.fromkeys(mixing_cells(6, (2,)), (0.75, 0.25))
    weights = ArchitectureWeights(dict.fromkeys(cells(6, (2,)), (0.2, 0.3, 0.5)), beta)
    graph = to_graph(architecture, weights)
    assert set(graph) == {f"{layer}/{scale}" for layer, scale in cells(6, (2,))} | {"stem", "head/2"}
    chosen = [node for node, values in graph.nodes(data=True) if values["chosen"]]
    assert sorted(chosen) == ["0/0", "1/0", "2/1", "3/1", "4/2", "5/2", "head/2", "stem"]
    assert nx.is_path(graph, ["stem", "0/0", "1/0", "2/1", "3/1", "4/2", "5/2", "head/2"])
    assert graph.nodes["3/1"] == {
        "kind": "cell",
        "layer": 3,
        "scale": 1,
        "chosen": True,
        "operation": "conv",
        "alpha skip": 0.2,
        "alpha conv": 0.3,
        "alpha conv2": 0.5,
    }
    assert "operation" not in graph.nodes["3/2"]
    assert graph.edges["2/1", "3/2"] == {"form": "halve", "chosen": False, "beta": 0.75}
    assert graph.edges["2/1", "3/1"] == {"form": "keep", "chosen": True, "beta": 0.25}
    assert graph.edges["0/0", "1/1"]["beta"] == 1.0
    into = {node: sum(graph.edges[edge]["beta"] for edge in graph.in_edges(node)) for node in ("2/1", "3/2", "5/2")}
    assert into == {"2/1": 1.0, "3/2": 1.0, "5/2": 1.0}


GRAPHML = format_graphml(to_graph(published()))
KEYS = {
    name: re.search(f'id="(d[0-9]+)" for="(?:node|graph)" attr.name="{name}"', GRAPHML)[1]
    for name in ("chosen", "operation", "layers", "found", "scale")
}


def data(name, value):
    return f'<data key="{KEYS[name]}">{value}</data>'


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('<?xml version="1.0" encoding="utf-8"?>', '<!DOCTYPE x [<!ENTITY a "b">]>'),
        ("<graph ", "<graf "),
        ("</graphml>", ""),
        ('edgedefault="directed"', 'edgedefault="undirected"'),
        ('attr.type="long"', 'attr.type="tensor"'),
        (data("layers", 6), data("layers", 7)),
        (data("layers", 6), data("layers", 10**12)),
        (data("layers", 6), data("layers", "six")),
        (data("layers", 6), ""),
        (data("operation", "conv"), data("operation", "pool")),
        (data("operation", "conv"), ""),
        (data("chosen", "True"), data("chosen", "False")),
        (data("scale", 1), data("scale", 0)),
        ('<node id="4/1">', '<node id="4/0">'),
        ('<edge source="4/2" target="5/2">', '<edge source="5/2" target="4/2">'),
        ('<edge source="4/2" target="5/2">', '<edge source="4/1" target="5/2">'),
        ('"split"', '"x"'),
    ],
)
def test_bad_graphml_is_refused_in_one_line(tmp_path, old, new):
    text = GRAPHML.replace(old, new)
    path = tmp_path / "bad.graphml"
    path.write_text(text)
    if text == GRAPHML:
        assert from_graph(read_graphml(path), "x") == published()
        return
    with pytest.raises(UserError) as caught:
        from_graph(read_graphml(path), str(path))
    assert "bad.graphml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::UserWarning")  # networkx warns of keys without a type
@settings(max_examples=200)
@given(start=st.integers(0, len(GRAPHML) - 1), length=st.integers(0, 30), insert=st.text(max_size=6))
def test_fuzzed_graphml_is_refused_or_an_architecture(start, length, insert):
    text = GRAPHML[:start] + insert + GRAPHML[start + length :]
    try:
        architecture = from_graph(parse_graphml(text, "fuzz"), "fuzz")
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert Architecture.from_json(architecture.to_json(), "again") == architecture


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
    weights = weights_from_record(record(), space, (2,))
    assert weights.alpha == dict.fromkeys(cells(6, (2,)), (0.3, 0.1, 0.6))
    assert weights.beta == dict.fromkeys(mixing_cells(6, (2,)), (0.7, 0.3))
    with_single = record()
    with_single["beta"]["1/1"] = {"finer": 1.0, "same": 0.0}
    assert weights_from_record(with_single, space, (2,)) == weights
    assert weights_from_record({"epoch": 3, "alpha": None}, space, (2,)) is None


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
        weights_from_record(bad, published().space, (2,), "epoch 3")
    del bad[kind]
    with pytest.raises(UserError, match=f"history: {kind}"):
        weights_from_record(bad, published().space, (2,))
