"""The architecture value: the space's structure, validation, JSON, sampling, published networks."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, replace
from itertools import product

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_osr.errors import UserError
from nas_osr.search_spaces.architectures.architecture import Architecture, Branch
from nas_osr.search_spaces.architectures.graph import format_graphml, to_graph
from nas_osr.search_spaces.architectures.references import load_architecture, published, published_names
from nas_osr.search_spaces.architectures.sampling import sample_architecture
from nas_osr.search_spaces.space import Space, all_paths, cells, edges, mixing_cells, predecessors
from nas_osr.search_spaces.spaces import Wide
from nas_osr.search_spaces.stems import STEMS

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
BRANCHES = st.sampled_from([(2,), (1, 2), (0, 2), (0, 1, 2)])


def reachable_cells(layers, branches):
    """The definition of the space by graph search on the full grid: an oracle for `cells` and `edges`."""
    grid = nx.DiGraph()
    grid.add_nodes_from(product(range(layers), range(3)))
    for layer, scale in product(range(layers - 1), range(3)):
        grid.add_edge((layer, scale), (layer + 1, scale))
        if scale < 2:
            grid.add_edge((layer, scale), (layer + 1, scale + 1))
    from_stem = nx.descendants(grid, (0, 0)) | {(0, 0)}
    outputs = {(layers - 1, branch) for branch in branches}
    to_outputs = set().union(*(nx.ancestors(grid, output) | {output} for output in outputs))
    return grid.subgraph(from_stem & to_outputs)


@pytest.mark.parametrize("layers", [3, 4, 6, 9])
@pytest.mark.parametrize("branches", [(2,), (1, 2), (0, 2), (0, 1, 2), (1,), (0,)])
def test_cells_and_edges_are_what_graph_search_finds(layers, branches):
    oracle = reachable_cells(layers, branches)
    assert cells(layers, branches) == sorted(oracle.nodes)
    assert sorted(edges(layers, branches)) == sorted(oracle.edges)
    for cell in oracle.nodes:
        assert predecessors(cell) == sorted(oracle.predecessors(cell))
    assert mixing_cells(layers, branches) == sorted(cell for cell in oracle if oracle.in_degree(cell) == 2)


@pytest.mark.parametrize("layers", [3, 5, 6])
@pytest.mark.parametrize("branch", [0, 1, 2])
def test_all_paths_are_those_of_the_graph(layers, branch):
    oracle = reachable_cells(layers, (branch,))
    paths = nx.all_simple_paths(oracle, (0, 0), (layers - 1, branch))
    assert all_paths(layers, branch) == sorted(tuple(scale for _, scale in path) for path in paths)


def test_the_papers_space_by_hand():
    expected = [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2), (3, 0), (3, 1), (3, 2), (4, 1), (4, 2), (5, 2)]
    assert cells(6, [2]) == expected
    assert mixing_cells(6, [2]) == [(2, 1), (3, 1), (3, 2), (4, 1), (4, 2), (5, 2)]
    assert len(all_paths(6, 2)) == 10


def test_published_is_the_papers_network():
    architecture = published()
    assert architecture.space == Space(layers=6, channels=256, operations=("skip", "conv", "conv2"))
    assert architecture.branches == {
        2: Branch((0, 0, 1, 1, 2, 2), ("conv2", "conv", "conv2", "conv", "conv2", "conv2"))
    }
    with pytest.raises(UserError, match="published"):
        published("unheard-of")


@pytest.mark.parametrize("name", published_names())
def test_everything_published_loads_by_name(name):
    assert load_architecture(name) == published(name)


@given(
    layers=st.integers(3, 9),
    branches=BRANCHES,
    seed=st.integers(0, 10**6),
    found=st.dictionaries(st.text(max_size=5), st.text(max_size=5) | st.integers(-5, 5) | st.floats(-1, 1)),
    stem=st.sampled_from([*STEMS, "my.Stem"]),
)
def test_json_round_trip(layers, branches, seed, found, stem):
    space = Space(layers=layers, channels=16, operations=("conv", "my.package.Operation"), branches=branches, stem=stem)
    sample = sample_architecture(space, seed)
    architecture = Architecture(space, sample.branches, found)
    text = architecture.to_json()
    assert text.isascii()
    again = Architecture.from_json(text, "text")
    assert again == architecture
    assert again.to_json() == text
    assert sample_architecture(space, seed) == sample


def test_json_is_the_documented_format():
    value = json.loads(published().to_json())
    assert list(value) == ["schema", "space", "branches", "found"]
    assert value["schema"] == 1
    assert value["space"] == {
        "name": "hierarchical",
        "layers": 6,
        "channels": 256,
        "operations": ["skip", "conv", "conv2"],
    }
    assert value["branches"]["2"]["path"] == [0, 0, 1, 1, 2, 2]


def test_a_stem_is_named_only_where_it_is_not_the_papers():
    pooled = Architecture.from_dict(replaced("space", "stem", "pooled"), "value")
    assert pooled.space.stem == "pooled" and pooled.to_dict()["space"]["stem"] == "pooled"
    assert Architecture.from_dict(replaced("space", "stem", "strided"), "value") == published() != pooled


def replaced(*keys_and_value):
    """The published network's plain value with one place replaced."""
    *keys, value = keys_and_value
    plain = copy.deepcopy(published().to_dict())
    place = plain
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return plain


@pytest.mark.parametrize(
    ("plain", "field"),
    [
        ([], "schema"),
        (replaced("schema", 3), "schema"),
        (replaced("schema", True), "schema"),
        (replaced("extra", 1), "extra"),
        (replaced("space", None), "space"),
        (replaced("space", "name", "flat"), "space.name"),
        (replaced("space", "layers", 6.0), "space.layers"),
        (replaced("space", "layers", 2), "space.layers"),
        (replaced("space", "layers", 10**9), "space.layers"),
        (replaced("space", "layers", 7), "branches.2.path"),
        (replaced("space", "channels", 0), "space.channels"),
        (replaced("space", "channels", "256"), "space.channels"),
        (replaced("space", "operations", []), "space.operations"),
        (replaced("space", "operations", ["conv", "conv"]), "space.operations"),
        (replaced("space", "operations", ["conv", "conv2", "pool"]), "pool"),
        (replaced("space", "operations", ["conv", "conv2", "os;system.x"]), "space.operations"),
        (replaced("space", "operations", ["skip", "conv"]), "branches.2.operations"),
        (replaced("space", "kernel", 3), "kernel"),
        (replaced("space", "stem", "dense"), "space.stem"),
        (replaced("space", "stem", None), "space.stem"),
        (replaced("branches", []), "branches"),
        (replaced("branches", {}), "branches"),
        (replaced("branches", "02", {}), "branches"),
        (replaced("branches", "3", {}), "branches"),
        (replaced("branches", "2", {"path": [0, 0, 1, 1, 2, 2]}), "operations"),
        (replaced("branches", "2", "path", [1, 1, 1, 1, 2, 2]), "branches.2.path"),
        (replaced("branches", "2", "path", [0, 0, 1, 1, 1, 1]), "branches.2.path"),
        (replaced("branches", "2", "path", [0, 0, 0, 0, 0, 2]), "branches.2.path[5]"),
        (replaced("branches", "2", "path", [0, 0, 1, 0, 1, 2]), "branches.2.path[3]"),
        (replaced("branches", "2", "path", [0, 0, 1, 1, 2, True]), "branches.2.path[5]"),
        (replaced("branches", "2", "path", "001122"), "branches.2.path"),
        (replaced("branches", "2", "operations", ["conv"] * 5), "branches.2.operations"),
        (replaced("branches", "2", "operations", ["conv"] * 5 + [None]), "branches.2.operations[5]"),
        (replaced("branches", "1", {"path": [0, 0, 0, 1, 1, 1], "operations": ["conv"] * 6}), "share"),
        (replaced("found", None), "found"),
        (replaced("found", "seed", 1 << 64), "found.seed"),
        (replaced("found", "deep", [[[[[[[[[1]]]]]]]]]), "nested"),
    ],
)
def test_bad_fields_are_named(plain, field):
    with pytest.raises(UserError) as caught:
        Architecture.from_json(json.dumps(plain), "some/file.json")
    message = str(caught.value)
    assert message.startswith("some/file.json: ")
    assert field in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 100_000,
        '{"a":' * 100_000,
        published().to_json().replace('"found": {', '"found": {"F1": NaN,'),
        published().to_json().replace('"found": {', '"found": {"F1": -Infinity,'),
        published().to_json().replace('"found": {', '"found": {"F1": 1e999,'),
        published().to_json().replace('"schema": 1', '"schema": 1, "schema": 1'),
        "9" * 10_000,
    ],
)
def test_bad_text_is_refused_in_one_line(text):
    with pytest.raises(UserError) as caught:
        Architecture.from_json(text, "file")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def places(value, keys=()):
    """The key sequences of everything inside a plain value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*keys, key)
        yield from places(item, (*keys, key))


SAMPLES = (sample_architecture(Space(**asdict(Wide(4, 16))), seed) for seed in range(100))
WIDE = next(architecture for architecture in SAMPLES if architecture.joins)


@settings(max_examples=400)
@given(data=st.data())
def test_fuzzed_json_is_refused_or_valid(data):
    plain = copy.deepcopy(data.draw(st.sampled_from([published(), WIDE])).to_dict())
    for _ in range(data.draw(st.integers(1, 3))):
        keys = data.draw(st.sampled_from(list(places(plain)) or [()]))
        if not keys:
            break
        place = plain
        for key in keys[:-1]:
            place = place[key]
        if data.draw(st.booleans()) and isinstance(place, dict):
            place[data.draw(st.text(max_size=5))] = place.pop(keys[-1])
        else:
            place[keys[-1]] = data.draw(JSON_VALUES | st.integers(0, 3) | st.sampled_from(["conv", "skip", "a.B"]))
    check_refused_or_valid(json.dumps(plain))


def changed(keys, value):
    """WIDE with another value at these keys."""
    plain = copy.deepcopy(WIDE.to_dict())
    place = plain
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return plain


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("choices", "pooling"), "mean", "choices.pooling: 'mean' is not one of average, maximum, both"),
        (("choices", "output"), True, "choices.output: True is not one of 1, 2"),
        (("choices",), {}, "choices: expected those of the space, stem, activation, pooling, output, width_0"),
        (("choices", "depth"), 3, "choices: unknown field 'depth'"),
        (("joins", "0/0"), {"path": [], "operations": []}, "joins: expected keys such as 3/1"),
        (("joins", "1/0"), {"path": [0], "operations": ["conv"]}, "joins.1/0: not a cell on the path of a branch that"),
        (("joins", "3/2"), {"path": [0], "operations": ["conv"]}, "joins.3/2"),
        (("joins",), [], "joins: expected an object, got a list"),
        (("space", "two_inputs"), 1, "space.two_inputs: expected true or false, got 1"),
        (("space", "two_inputs"), False, "space.two_inputs is false"),
        (("space", "widths"), ["1"], "space.widths[0]: expected a number, got '1'"),
    ],
)
def test_bad_choices_are_named(keys, value, message):
    with pytest.raises(UserError) as caught:
        Architecture.from_json(json.dumps(changed(keys, value)), "file")
    assert message in str(caught.value)


def test_wide_json_is_the_same_again():
    assert Architecture.from_json(WIDE.to_json(), "text").to_json() == WIDE.to_json()
    assert Architecture.from_description(WIDE.space, {"epoch": 1, **WIDE.describe()}).branches == WIDE.branches


@given(text=st.text(max_size=50) | JSON_VALUES.map(json.dumps))
def test_any_text_is_refused_or_valid(text):
    check_refused_or_valid(text)


def check_refused_or_valid(text):
    try:
        architecture = Architecture.from_json(text, "fuzz")
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert Architecture.from_json(architecture.to_json(), "again") == architecture


def test_files_are_loaded_by_folder_json_and_graphml(tmp_path):
    architecture = published()
    architecture.save(tmp_path / "architecture.json")
    (tmp_path / "other.graphml").write_text(format_graphml(to_graph(architecture)))
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["architecture.json", "other.graphml"]
    assert load_architecture(tmp_path) == architecture
    assert load_architecture(str(tmp_path / "architecture.json")) == architecture
    assert load_architecture(tmp_path / "other.graphml") == architecture


@pytest.mark.parametrize("content", [b"\xff\xfe", b"\x89PNG\r\n", b"", b" " * (5 << 20)])
def test_files_that_are_no_architecture(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match="a.json"):
        load_architecture(path)


def test_missing_and_unwritable_places(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        load_architecture(tmp_path / "nowhere")
    with pytest.raises(UserError, match="architecture.json"):
        load_architecture(tmp_path)
    with pytest.raises(UserError, match="missing"):
        published().save(tmp_path / "missing" / "a.json")
    (tmp_path / "a.json").mkdir()
    with pytest.raises(UserError, match="a.json"):
        published().save(tmp_path / "a.json")
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_random_references_sample():
    space = Space(layers=4, channels=8)
    assert load_architecture("random:7", space) == sample_architecture(space, 7)
    assert set(load_architecture("random:7", replace(space, branches=(1, 2))).branches) == {1, 2}
    for reference, space_or_none in (("random:7", None), ("random:x", space), ("random:-1", space), ("random:", space)):
        with pytest.raises(UserError, match="random:"):
            load_architecture(reference, space_or_none)
