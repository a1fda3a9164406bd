"""Networks that compute the same are one: the canonical form of an architecture, its fingerprint, the size of a space.

A cell that skips and keeps the scale is the identity wherever it sits, so that a path is what its other cells do in
order. The canonical form has the identities at the end of each path.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from itertools import product
from typing import Any

from nas_osr.search_spaces.architectures.architecture import Architecture, Branch, inconsistent_cell
from nas_osr.search_spaces.space import Space, all_paths

IDENTITY = "skip"  # where it keeps the scale
HEX_DIGITS = 16  # of a fingerprint: 64 bits
MOST_COMBINATIONS = 10_000


def canonical(architecture: Architecture) -> Architecture:
    """The one architecture that stands for all of the same space that compute the same; `found` is left empty.

    With second inputs, and with branches that no longer agree about a cell that they share when identities have moved,
    an architecture may stand for itself though another computes the same. Idempotent.
    """
    identity = IDENTITY in architecture.space.operations and not architecture.joins
    moved = {scale: _identities_last(branch) if identity else branch for scale, branch in architecture.branches.items()}
    if inconsistent_cell(moved.values()) is not None:
        moved = architecture.branches
    choices = dict(architecture.choices)
    for name, candidates in architecture.space.choices.items():
        scale = name.removeprefix("width_")
        if scale != name and int(scale) > max(moved):
            choices[name] = candidates[0]  # of cells that are not there
    return replace(architecture, branches=moved, choices=choices, found={})


def fingerprint(architecture: Architecture) -> str:
    """16 hexadecimal digits: equal where networks compute the same, whatever space they were found in.

    A hash (SHA-256) of the stem, activation, pooling and widths, and of what the cells on each path do in order.
    """
    found = canonical(architecture)
    if found.joins:
        ways: dict[str, Any] = found.describe()
    else:
        ways = {str(scale): _steps(branch) for scale, branch in found.branches.items()}
    widths = [found.channels(scale) for scale in range(max(found.branches) + 1)]
    whole = [found.stem, found.activation, found.pooling, architecture.space.channels, widths, ways]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:HEX_DIGITS]


def count_descriptions(space: Space) -> int | None:
    """How many architectures can be written down in a space: paths, operations on them, choices of the network.

    Second inputs are not counted.
    None for several branches with more combinations of paths than can be looked at one by one.
    """
    ways, operations = 0, len(space.selectable)
    for ends in _end_combinations(space):
        if len(ends) == 1:
            ways += math.comb(space.layers - 1, ends[0]) * operations**space.layers
            continue
        if math.prod(math.comb(space.layers - 1, end) for end in ends) > MOST_COMBINATIONS:
            return None
        for paths in product(*(all_paths(space.layers, end) for end in ends)):
            branches = {end: Branch(path, ("",) * space.layers) for end, path in zip(ends, paths, strict=True)}
            if inconsistent_cell(branches.values()) is None:
                ways += operations ** len({cell for path in paths for cell in enumerate(path)})
    return ways * _whole(space)


def count_distinct(space: Space) -> int | None:
    """How many of them compute different things, for networks with one output; None for several branches.

    Second inputs are not counted.

    A path of L cells that ends at scale e keeps at its last cell. Without identities it has m <= L - e keeping cells,
    in any order with the e halving ones; where none is an identity, the last one keeps. With k operations, of which i
    are the identity: sum over m of C(m + e, e) (k - i)^m k^e, where C(L - 1, e) takes the place of C(m + e, e) for
    m = L - e.
    """
    if len(space.branches) > 1:
        return None
    operations = len(space.selectable)
    identities = int(IDENTITY in space.selectable)
    total = 0
    for end in space.ends:
        keeping = space.layers - end
        ways = math.comb(space.layers - 1, end) * (operations - identities) ** keeping
        if identities:
            ways += sum(math.comb(m + end, end) * (operations - 1) ** m for m in range(keeping))
        # the widths of scales that a network does not reach are no difference
        unused = len(space.widths or (1,)) ** (max(space.ends) - end)
        total += ways * operations**end * _whole(space) // unused
    return total


def _identities_last(branch: Branch) -> Branch:
    """The branch with its identities after all other cells."""
    steps = _steps(branch)
    rest = len(branch.path) - len(steps)
    last = branch.path[-1]
    return Branch((*(scale for _, scale in steps), *(last,) * rest), (*(n for n, _ in steps), *(IDENTITY,) * rest))


def _steps(branch: Branch) -> list[tuple[str, int]]:
    """The operations and scales of a branch's cells in order, without those that do nothing."""
    following = (*branch.path[1:], branch.path[-1])
    cells = zip(branch.operations, branch.path, following, strict=True)
    return [(operation, here) for operation, here, there in cells if operation != IDENTITY or there > here]


def _end_combinations(space: Space) -> list[tuple[int, ...]]:
    return [(end,) for end in space.outputs] if space.outputs else [space.branches]


def _whole(space: Space) -> int:
    """How many ways there are to choose what concerns the network as a whole, but for its output."""
    return math.prod(len(candidates) for name, candidates in space.choices.items() if name != "output")
