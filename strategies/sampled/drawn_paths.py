"""Paths of a supernet that are drawn to be trained, and the step that trains them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from nas_osr.search_spaces.architectures.architecture import Architecture, Branch
from nas_osr.search_spaces.supernet import Supernet
from nas_osr.strategies.base import SearchPlan
from nas_osr.strategies.trials.asking import draw_within
from nas_osr.training.learner import clipped_step
from nas_osr.training.monitors import NORM

PATHS = ("uniform", "fair")
REJECTIONS = 50  # uniform draws for a path within a budget: each takes milliseconds of a step


def draw_paths(plan: SearchPlan, how: str, seed: int) -> list[Architecture]:
    """The paths of one step, within the plan's budget: what it forbids would only take time from the others.

    uniform  one of all different networks (Guo et al. 2020, Single Path One-Shot).
    fair     as many as there are operations, on the same cells: each of these has every operation once, in a random
             order of its own (Chu et al. 2021, FairNAS, strict fairness). Candidates of other choices take turns in the
             same way. Of a budget those that fit, or else one that does.
    """
    space = plan.space
    first = draw_within(plan, seed, REJECTIONS)
    if how == "uniform":
        return [first]
    generator = random.Random(seed)
    count = len(space.selectable)
    turns: dict[Any, Sequence[Any]] = {
        cell: generator.sample(space.selectable, count) for cell in sorted(first.chosen_cells())
    }
    for name, candidates in space.choices.items():
        turns[name] = [first.choices[name]] if name == "output" else generator.sample(candidates, len(candidates))
    paths = [_in_turn(first, turns, turn) for turn in range(count)]
    return [path for path in paths if plan.budget.fits(path)] or [first]


def _in_turn(first: Architecture, turns: Mapping[Any, Sequence[Any]], turn: int) -> Architecture:
    """The same ways with what each cell and each choice has in this turn."""

    def renewed(ways: Mapping[Any, Branch]) -> dict[Any, Branch]:
        return {key: Branch(way.path, tuple(turns[c][turn] for c in enumerate(way.path))) for key, way in ways.items()}

    choices = {name: turns[name][turn % len(turns[name])] for name in first.choices}
    return replace(first, branches=renewed(first.branches), joins=renewed(first.joins), choices=choices)


def path_step(
    fabric: Fabric,
    learner: Any,
    optimizers: Mapping[str, Any],
    paths: Sequence[Architecture],
    images: Tensor,
    labels: Tensor,
    progress: float,
    clip: float,
    scale: float,
) -> dict[str, Tensor]:
    """Update every player once, by the mean gradient of these paths of the supernet; weights on none stay as they are.

    Arguments and what is returned are those of `nas_osr.training.learner.weight_step`, losses as means over the paths.
    """
    supernet: Supernet = learner.module.encoder
    terms: dict[str, Tensor] = {}
    for player, optimizer in optimizers.items():
        optimizer.zero_grad(set_to_none=True)
        for path in paths:
            supernet.follow(path)
            losses = learner(images, labels, player, progress)
            fabric.backward(torch.stack(list(losses.values())).sum() / (scale * len(paths)))
            for name, value in losses.items():
                terms[name] = terms.get(name, 0) + value.detach() / len(paths)
        terms[NORM + player] = clipped_step(fabric, learner, optimizer, clip)
    return terms
