"""Architecture <-> networkx: the best path, decoding, the graph of the whole space, and GraphML in and out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_osr.errors import UserError
from nas_osr.files.text import parse_json, read_text
from nas_osr.search_spaces.architectures.architecture import SCHEMA, Architecture, Branch
from nas_osr.search_spaces.space import (
    NUM_SCALES,
    PAPER_STEM,
    Cell,
    SpaceDescription,
    cells,
    edges,
    mixing_cells,
    predecessors,
)

if TYPE_CHECKING:
    import networkx as nx

_UNITS_PER_NAT = 1 << 40
_COST_OF_ZERO = 1_000_000 * _UNITS_PER_NAT  # more than any path without a zero can cost


@dataclass(frozen=True)
class ArchitectureWeights:
    """What a search learnt about every cell of the space.

    Attributes:
        alpha: for each cell the probabilities of the operations, in the space's order; they sum to 1.
        beta: for each cell with two in-edges the probabilities (from the finer scale, from the same scale).
    """

    alpha: dict[Cell, tuple[float, ...]]
    beta: dict[Cell, tuple[float, float]]


def name_cell(cell: Cell) -> str:
    """The cell's key in files and graphs: "layer/scale"."""
    return f"{cell[0]}/{cell[1]}"


def path_probability(path: Sequence[int], beta: Mapping[Cell, tuple[float, float]]) -> float:
    """The product of beta along a path; a cell with one in-edge counts 1."""
    return math.prod(
        _in_probability((layer, scale), from_finer=scale > previous, beta=beta)
        for layer, (previous, scale) in enumerate(pairwise(path), start=1)
    )


def best_path(layers: int, branch: int, beta: Mapping[Cell, tuple[float, float]]) -> tuple[int, ...]:
    """The path to `branch` with the greatest product of beta, by networkx on -log beta.

    Costs are whole numbers (units of 2**-40 nat), so that paths with the same betas in another order cost exactly the
    same. Of paths of equal cost the lexicographically smallest wins, the one that halves latest. Where every path has
    an edge of probability 0, the fewest such edges win, then the product of the others. Best paths of several branches
    agree about every cell that they share.

    Args:
        beta: (from finer, from same) in [0, 1] of at least every cell with two in-edges on the way to the branch.

    Raises:
        ValueError: a beta lies outside [0, 1] or is NaN.
    """
    import networkx as nx

    graph = nx.DiGraph()
    graph.add_node((0, 0))
    for source, target in edges(layers, [branch]):
        halves = target[1] > source[1]
        cost = _cost(_in_probability(target, halves, beta)) << (layers + 1)
        tie = 1 << (layers - target[0]) if halves else 0  # halving earlier outweighs all that follows
        graph.add_edge(source, target, cost=cost + tie)
    path = nx.shortest_path(graph, (0, 0), (layers - 1, branch), weight="cost")
    return tuple(scale for _, scale in path)


def decode(
    space: SpaceDescription,
    branches: Sequence[int],
    alpha: Mapping[Cell, Sequence[float]],
    beta: Mapping[Cell, tuple[float, float]],
) -> dict[int, Branch]:
    """For each branch the best path, and on it each cell's most probable operation (ties: the first in the space)."""
    found = {}
    for branch in sorted(branches):
        path = best_path(space.layers, branch, beta)
        strongest = []
        for cell in enumerate(path):
            weights = [float(weight) for weight in alpha[cell]]
            if len(weights) != len(space.operations) or not all(map(math.isfinite, weights)):
                raise ValueError(f"alpha of cell {name_cell(cell)}: expected {len(space.operations)} finite numbers")
            strongest.append(space.operations[weights.index(max(weights))])
        found[branch] = Branch(path, tuple(strongest))
    return found


def weights_from_record(
    record: Mapping[str, Any], space: SpaceDescription, branches: Sequence[int], where: str = "history"
) -> ArchitectureWeights | None:
    """The weights in one record of `history.jsonl`, or None when it has neither alpha nor beta.

    Args:
        record: `{"alpha": {"l/s": {operation: p}}, "beta": {"l/s": {"finer": p, "same": p}}}` among other fields, the
            keys in any order; a beta of a cell with one in-edge is passed over.
        where: names the record in messages.

    Raises:
        UserError: names the field that is missing or out of range.
    """
    if record.get("alpha") is None and record.get("beta") is None:
        return None
    alpha = {
        cell: _probabilities(record, "alpha", cell, space.operations, where) for cell in cells(space.layers, branches)
    }
    beta = {
        cell: _probabilities(record, "beta", cell, ("finer", "same"), where)
        for cell in mixing_cells(space.layers, branches)
    }
    return ArchitectureWeights(alpha, {cell: (finer, same) for cell, (finer, same) in beta.items()})


def to_graph(architecture: Architecture, weights: ArchitectureWeights | None = None) -> nx.DiGraph:
    """The whole space as a graph, the architecture marked in it.

    Nodes: "stem", "l/s" for each cell, "head/s" for each branch; attributes `kind`, `scale`, `chosen`, and for cells
    `layer`, `operation` (chosen cells), `alpha OPERATION` (with weights). Edges: `form` (stem, keep, halve or head),
    `chosen`, `beta` (with weights; 1 where there is no choice). Graph attributes hold the rest; all values are strings,
    booleans and numbers.
    """
    import networkx as nx

    space, branches = architecture.space, architecture.branches
    graph = nx.DiGraph(
        schema=SCHEMA,
        space=space.name,
        layers=space.layers,
        channels=space.channels,
        operations=" ".join(space.operations),
        found=json.dumps(architecture.found, allow_nan=False),
    )
    if space.stem != PAPER_STEM:  # as in `architecture.json`
        graph.graph["stem"] = space.stem
    operations = {cell: branch.operations[cell[0]] for branch in branches.values() for cell in enumerate(branch.path)}
    steps = {
        ((layer, a), (layer + 1, b))
        for branch in branches.values()
        for layer, (a, b) in enumerate(pairwise(branch.path))
    }
    graph.add_node("stem", kind="stem", scale=0, chosen=True)
    for cell in cells(space.layers, list(branches)):
        values: dict[str, Any] = {"kind": "cell", "layer": cell[0], "scale": cell[1], "chosen": cell in operations}
        if cell in operations:
            values["operation"] = operations[cell]
        if weights is not None:
            values |= {f"alpha {name}": p for name, p in zip(space.operations, weights.alpha[cell], strict=True)}
        graph.add_node(name_cell(cell), **values)
    for scale in branches:
        graph.add_node(f"head/{scale}", kind="head", scale=scale, chosen=True)

    graph.add_edge("stem", "0/0", form="stem", chosen=True)
    for source, target in edges(space.layers, list(branches)):
        halves = target[1] > source[1]
        values = {"form": "halve" if halves else "keep", "chosen": (source, target) in steps}
        if weights is not None:
            values["beta"] = _in_probability(target, halves, weights.beta)
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
    architecture = Architecture.from_dict(
        {"schema": graph.graph["schema"], "space": space, "branches": branches, "found": found}, where
    )
    _check_same_structure(graph, to_graph(architecture), where)
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
    return weights_from_record({"alpha": alpha, "beta": beta}, architecture.space, list(architecture.branches), where)


def format_graphml(graph: nx.DiGraph) -> str:
    """GraphML text; the same bytes for the same graph."""
    import networkx as nx

    return '<?xml version="1.0" encoding="utf-8"?>\n' + "\n".join(nx.generate_graphml(graph)) + "\n"


def read_graphml(path: str | Path) -> nx.DiGraph:
    """Read a GraphML file without document type or entities. Raises UserError."""
    return parse_graphml(read_text(path), str(path))


def parse_graphml(text: str, where: str) -> nx.DiGraph:
    """Parse GraphML; `where` names the origin in messages. Raises UserError."""
    import networkx as nx

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


def _cost(probability: float) -> int:
    """-log in whole units, 0 for a probability of 1."""
    return round(-math.log(probability) * _UNITS_PER_NAT) if probability > 0 else _COST_OF_ZERO


def _in_probability(cell: Cell, from_finer: bool, beta: Mapping[Cell, tuple[float, float]]) -> float:
    """The probability of one in-edge of a cell: its beta, or 1 where there is no choice."""
    if len(predecessors(cell)) < 2:
        return 1.0
    probability = float(beta[cell][0 if from_finer else 1])
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"beta of cell {name_cell(cell)}: {probability} is not a probability")
    return probability


def _probabilities(
    record: Mapping[str, Any], kind: str, cell: Cell, names: Sequence[str], where: str
) -> tuple[float, ...]:
    """`record[kind][cell]` as a tuple in the order of `names`, checked to be probabilities that sum to 1."""
    group = record.get(kind)
    values = group.get(name_cell(cell)) if isinstance(group, Mapping) else None
    if not isinstance(values, Mapping) or set(values) != set(names):
        raise UserError(f"{where}: {kind} of cell {name_cell(cell)}: expected probabilities of {', '.join(names)}")
    for name in names:
        if isinstance(values[name], bool) or not isinstance(values[name], int | float) or not 0 <= values[name] <= 1:
            raise UserError(f"{where}: {kind} of cell {name_cell(cell)}: {name} is not a probability")
    if not math.isclose(sum(values.values()), 1.0, abs_tol=1e-3):
        raise UserError(f"{where}: {kind} of cell {name_cell(cell)}: the probabilities do not sum to 1")
    return tuple(float(values[name]) for name in names)


def _walk_back(graph: nx.DiGraph, head: str, where: str) -> list[str]:
    """The nodes from layer 0 to before `head` along chosen edges."""
    way: list[str] = []
    node = head
    while node != "stem" and len(way) <= len(graph):
        chosen = [source for source, _, values in graph.in_edges(node, data=True) if values.get("chosen") is True]
        if len(chosen) != 1:
            raise UserError(
                f"{where}: not an architecture: node {node[:40]!a} has {len(chosen)} chosen in-edges, not 1"
            )
        node = chosen[0]
        way.append(node)
    return way[-2::-1]


def _check_same_structure(graph: nx.DiGraph, expected: nx.DiGraph, where: str) -> None:
    """Raise UserError unless nodes and edges, and what `expected` says about each, are those of `expected`."""
    if set(graph.nodes) != set(expected.nodes) or set(graph.edges) != set(expected.edges):
        raise UserError(f"{where}: not an architecture: its nodes and edges are not those of its space")
    same_nodes = all(values.items() <= graph.nodes[node].items() for node, values in expected.nodes(data=True))
    same_edges = all(values.items() <= graph.edges[a, b].items() for a, b, values in expected.edges(data=True))
    if not same_nodes or not same_edges:
        raise UserError(f"{where}: not an architecture: its marks contradict each other")
