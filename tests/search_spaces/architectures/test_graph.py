"""The graph and GraphML forms of an architecture."""

from __future__ import annotations

import re
from dataclasses import asdict

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_osr.errors import UserError
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.architectures.decoding import ArchitectureWeights
from nas_osr.search_spaces.architectures.graph import (
    format_graphml,
    from_graph,
    parse_graphml,
    read_graphml,
    to_graph,
    weights_from_graph,
)
from nas_osr.search_spaces.architectures.picture import draw, format_dot
from nas_osr.search_spaces.architectures.references import published
from nas_osr.search_spaces.architectures.sampling import sample_architecture
from nas_osr.search_spaces.space import Space, cells, mixing_cells
from nas_osr.search_spaces.spaces import Wide
from nas_osr.search_spaces.stems import STEMS
from nas_osr.search_spaces.supernet import build_supernet
from nas_osr.seeds import make_generator

BRANCHES = st.sampled_from([(2,), (1, 2), (0, 2), (0, 1, 2)])
TEXT_OR_NUMBER = st.text(max_size=6) | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def weighted_architectures(draw):
    layers, branches = draw(st.integers(3, 8)), draw(BRANCHES)
    space = Space(
        layers=layers,
        channels=draw(st.integers(4, 512)),
        operations=("skip", "conv", "a.b.Öp"),
        branches=branches,
        stem=draw(st.sampled_from([*STEMS, "my.Stem"])),
    )
    found = draw(st.dictionaries(st.text(max_size=6), TEXT_OR_NUMBER | st.lists(TEXT_OR_NUMBER, max_size=2)))
    sample = sample_architecture(space, draw(st.integers(0, 999)))
    alpha = {}
    for cell in cells(layers, branches):
        shares = draw(st.tuples(*[st.floats(0.01, 1)] * 3))
        alpha[cell] = tuple(share / sum(shares) for share in shares)
    beta = {cell: (p, 1 - p) for cell in mixing_cells(layers, branches) for p in [draw(st.floats(0, 1))]}
    weights = ArchitectureWeights(alpha, beta)
    return Architecture(space, sample.branches, found), weights


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


@pytest.mark.parametrize("seed", range(6))
def test_a_graph_of_a_wide_space_loses_nothing(seed):
    """Choices, second inputs, and the weights of both; and the picture says them."""
    space = Space(**asdict(Wide(5, 16)))
    architecture = sample_architecture(space, seed)
    supernet = build_supernet(space, 1, (0.5,), (0.5,))
    generator = make_generator(seed, "weights")
    for logits in supernet.architecture_parameters.values():
        logits.data.copy_(torch.randn(logits.shape, generator=generator))
    mixing = mixing_cells(space.layers, space.ends)
    betas = {cell: beta for cell, beta in supernet.betas().items() if cell in mixing}
    weights = ArchitectureWeights(supernet.alphas(), betas, supernet.gammas(), supernet.joins())
    graph = parse_graphml(format_graphml(to_graph(architecture, weights)), "text")
    assert from_graph(graph, "text") == architecture
    assert weights_from_graph(graph, architecture, "text") == weights
    assert Architecture.from_json(architecture.to_json(), "text") == architecture
    dot = format_dot(architecture, weights)
    assert f"pooling {architecture.choices['pooling']} (" in dot
    bold = sum("penwidth=2.6" in line for line in dot.splitlines())
    assert bold == len(architecture.chosen_edges()) + 2  # from the stem, and to the head
    assert draw(dot, "svg").startswith(b"<?xml")


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
