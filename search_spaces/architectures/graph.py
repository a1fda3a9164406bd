"""Architecture <-> networkx: the graph of its whole space, the architecture marked in it, and GraphML in and out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import networkx as nx

from nas_osr.errors import UserError
from nas_osr.files.text import parse_json, parse_object, read_text
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.architectures.decoding import (
    ArchitectureWeights,
    in_probability,
    name_cell,
    weights_from_record,
)
from nas_osr.search_spaces.space import NUM_SCALES


def to_graph(architecture: Architecture, weights: ArchitectureWeights | None = None) -> nx.DiGraph:
    """The whole space as a graph, the architecture marked in it.

    Nodes: "stem", "l/s" for each cell, "head/s" for each branch; attributes `kind`, `scale`, `chosen`, and for cells
    `layer`, `operation` (chosen cells), `alpha OPERATION` (with weights). Edges: `form` (stem, keep, halve or head),
    `chosen`, `joins` (on a way to a second input alone), `beta` (with weights; 1 where there is no choice). Graph
    attributes hold the rest; all values are strings, booleans and numbers.
    """
    space, branches = architecture.space, architecture.branches
    plain = architecture.to_dict()
    graph = nx.DiGraph(
        schema=plain["schema"],
        space=plain["space"].pop("name"),
        layers=plain["space"].pop("layers"),
        channels=plain["space"].pop("channels"),
        operations=" ".join(plain["space"].pop("operations")),
        found=json.dumps(architecture.found, allow_nan=False),
    )
    # the rest as it is in `architecture.json`
    if space.chooses:
        graph.graph |= {"choosing": json.dumps(plain["space"]), "choices": json.dumps(architecture.choices)}
    else:
        graph.graph |= plain["space"]
    if weights is not None and weights.gamma:
        names = {choice: [str(candidate) for candidate in items] for choice, items in space.choices.items()}
        gamma = {choice: dict(zip(names[choice], p, strict=True)) for choice, p in weights.gamma.items()}
        graph.graph["gamma"] = json.dumps(gamma)
    if architecture.joins:
        graph.graph["joins"] = json.dumps(plain["joins"])
    if weights is not None and weights.join:
        graph.graph["join"] = json.dumps(
            {name_cell(cell): {"one": p, "both": q} for cell, (p, q) in weights.join.items()}
        )
    operations, steps, main = architecture.chosen_cells(), architecture.chosen_edges(), architecture.path_edges()
    graph.add_node("stem", kind="stem", scale=0, chosen=True)
    for cell in space.cells:
        values: dict[str, Any] = {"kind": "cell", "layer": cell[0], "scale": cell[1], "chosen": cell in operations}
        if cell in operations:
            values["operation"] = operations[cell]
        if weights is not None:
            values |= {f"alpha {name}": p for name, p in zip(space.operations, weights.alpha[cell], strict=True)}
        graph.add_node(name_cell(cell), **values)
    for scale in branches:
        graph.add_node(f"head/{scale}", kind="head", scale=scale, chosen=True)

    graph.add_edge("stem", "0/0", form="stem", chosen=True)
    for source, target in space.edges:
        halves = target[1] > source[1]
        values = {"form": "halve" if halves else "keep", "chosen": (source, target) in steps}
        if (source, target) in steps - main:
            values["joins"] = True
        if weights is not None:
            values["beta"] = in_probability(target, halves, weights.beta)
        graph.add_edge(name_cell(source), name_cell(target), **values)
    for scale in branches:
        graph.add_edge(name_cell((space.layers - 1, scale)), f"head/{scale}", form="head", chosen=True)
    return graph


def from_graph(graph: nx.DiGraph, where: str) -> Architecture:
    """The architecture that `to_graph` marked; `where` names the graph in messages. Raises UserError."""
    for name in ("schema", "space", "layers", "channels", "operations", "found"):
        if name not in graph.graph:
            raise UserError(f"{where}: not an architecture: graph attribute {name} is missing")
    branches = {}
    for scale in range(NUM_SCALES):
        if f"head/{scale}" in graph:
            way = _walk_back(graph, f"head/{scale}", where)
            branches[str(scale)] = {
                "path": [graph.nodes[node].get("scale") for node in way],
                "operations": [graph.nodes[node].get("operation") for node in way],
            }
    space = {
        "name": graph.graph["space"],
        "layers": graph.graph["layers"],
        "channels": graph.graph["channels"],
        "operations": str(graph.graph["operations"]).split(" "),
    }
    if "stem" in graph.graph:
        space["stem"] = graph.graph["stem"]
    found = parse_json(str(graph.graph["found"]), f"{where}: graph attribute found")
    value = {"schema": graph.graph["schema"], "space": space, "branches": branches, "found": found}
    if "choosing" in graph.graph:
        value["space"] |= parse_object(str(graph.graph["choosing"]), f"{where}: graph attribute choosing")
        value["choices"] = parse_json(str(graph.graph.get("choices")), f"{where}: graph attribute choices")
        value["joins"] = parse_json(str(graph.graph.get("joins", "{}")), f"{where}: graph attribute joins")
    architecture = Architecture.from_dict(value, where)
    expected = to_graph(architecture)
    if set(graph.nodes) != set(expected.nodes) or set(graph.edges) != set(expected.edges):
        raise UserError(f"{where}: not an architecture: its nodes and edges are not those of its space")
    same_nodes = all(values.items() <= graph.nodes[node].items() for node, values in expected.nodes(data=True))
    same_edges = all(values.items() <= graph.edges[a, b].items() for a, b, values in expected.edges(data=True))
    if not same_nodes or not same_edges:
        raise UserError(f"{where}: not an architecture: its marks contradict each other")
    return architecture


def weights_from_graph(graph: nx.DiGraph, architecture: Architecture, where: str) -> ArchitectureWeights | None:
    """The alphas and betas that the graph of this architecture carries, or None. Raises UserError."""
    prefix = "alpha "
    alpha = {
        node: {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
        for node, values in graph.nodes(data=True)
    }
    beta: dict[str, dict[str, Any]] = {}
    for _, target, values in graph.edges(data=True):
        if "beta" in values:
            halves = values.get("form") == "halve"
            beta.setdefault(target, {})["finer" if halves else "same"] = values["beta"]
    if not any(alpha.values()) and not beta:
        return None
    gamma = parse_json(str(graph.graph.get("gamma", "{}")), f"{where}: graph attribute gamma")
    join = parse_json(str(graph.graph.get("join", "{}")), f"{where}: graph attribute join")
    record = {"alpha": alpha, "beta": beta, "gamma": gamma, "join": join}
    return weights_from_record(record, architecture.space, where)


def format_graphml(graph: nx.DiGraph) -> str:
    """GraphML text; the same bytes for the same graph."""
    return '<?xml version="1.0" encoding="utf-8"?>\n' + "\n".join(nx.generate_graphml(graph)) + "\n"


def read_graphml(path: str | Path) -> nx.DiGraph:
    """Read a GraphML file without document type or entities. Raises UserError."""
    return parse_graphml(read_text(path), str(path))


def parse_graphml(text: str, where: str) -> nx.DiGraph:
    """Parse GraphML; `where` names the origin in messages. Raises UserError."""
    if "<!doctype" in text.lower() or "<!entity" in text.lower():
        raise UserError(f"{where}: GraphML with a document type or entities is refused")
    try:
        graph = nx.parse_graphml(text)
    except Exception as error:  # networkx and its XML parser raise many kinds on malformed files
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(f"{where}: not GraphML: {reason}") from error
    if not graph.is_directed() or graph.is_multigraph():
        raise UserError(f"{where}: not an architecture: expected a directed graph without parallel edges")
    return graph


def _walk_back(graph: nx.DiGraph, head: str, where: str) -> list[str]:
    """The nodes from layer 0 to before `head` along chosen edges."""
    way: list[str] = []
    node = head
    while node != "stem" and len(way) <= len(graph):
        edges = graph.in_edges(node, data=True)
        chosen = [source for source, _, v in edges if v.get("chosen") is True and v.get("joins") is not True]
        if len(chosen) != 1:
            raise UserError(
                f"{where}: not an architecture: node {node[:40]!a} has {len(chosen)} chosen in-edges, not 1"
            )
        node = chosen[0]
        way.append(node)
    return way[-2::-1]
