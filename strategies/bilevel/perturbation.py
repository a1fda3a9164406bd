"""Discretisation by perturbation: what of a supernet hurts most when it is taken away stays (Wang et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.architectures.decoding import ArchitectureWeights, decode
from nas_osr.search_spaces.operations import NONE
from nas_osr.search_spaces.supernet import Supernet


def decode_by_perturbation(supernet: Supernet, loss: Callable[[], float]) -> Architecture:
    """The architecture that is left when every choice is made by what its candidates are worth to the whole.

    Rethinking Architecture Selection in Differentiable NAS, Algorithm 1: choice by choice, each candidate is taken out
    of the mixture (the others share its weight), and the one without which the loss is largest is kept alone, also
    while the choices after it are made. Operations come first, by layer, then edges, then the choices of the network
    as a whole. The supernet is not trained on in between, as it is in the paper. Of equal losses the first counts.

    Args:
        supernet: in eval mode; it is weighed by its probabilities afterwards.
        loss: of the supernet as it is weighed, on known validation images; equal calls give equal values.
    """
    space, found = supernet.space, {}
    none = space.operations.index(NONE) if NONE in space.operations else None
    draw, supernet.draw = supernet.draw, None
    for weigher in supernet.weighers.values():
        weigher.set()
    try:
        for label in sorted(supernet.weighers, key=_turn):
            weigher = supernet.weighers[label]
            p = weigher.expected(supernet.architecture_parameters[label].detach())
            losses = {}
            for place in range(len(p)):
                if not (label.startswith("alpha_") and place == none):
                    weigher.set(_without(p, place))
                    losses[place] = loss()
            kept = max(losses, key=lambda place: (losses[place], -place))
            weigher.set(chosen=kept)
            found[label] = tuple(weigher.rows[kept].tolist())
    finally:
        supernet.draw = draw
        for weigher in supernet.weighers.values():
            weigher.set()
    cells = {label: _cell(label) for label in found if not label.startswith("gamma_")}
    alpha, beta, join = (
        {cell: found[label] for label, cell in cells.items() if label.startswith(kind)}
        for kind in ("alpha_", "beta_", "join_")
    )
    gamma = {label.removeprefix("gamma_"): p for label, p in found.items() if label.startswith("gamma_")}
    return decode(space, ArchitectureWeights(alpha, beta, gamma, join))  # type: ignore[arg-type]


def _without(p: Tensor, place: int) -> Tensor:
    """Probabilities of which one is 0, and the others as they were to each other."""
    rest = p.clone()
    rest[place] = 0
    others = len(p) - 1
    if others and float(rest.sum()) <= torch.finfo(p.dtype).tiny:  # it had all of the weight
        rest[:] = 1 / others
        rest[place] = 0
    return rest / rest.sum() if others else rest


def _turn(label: str) -> tuple[int, list[int], str]:
    kinds = ("alpha", "beta", "join", "gamma")
    kind = kinds.index(label.partition("_")[0])
    return kind, [] if kinds[kind] == "gamma" else list(_cell(label)), label


def _cell(label: str) -> tuple[int, int]:
    _, layer, scale = label.split("_")
    return int(layer), int(scale)
