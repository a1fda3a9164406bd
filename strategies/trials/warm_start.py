"""The first trials of a search: the best of many draws by what can be said of a network untrained."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nas_osr.data.batches import to_float
from nas_osr.errors import UserError
from nas_osr.files.storage import replace_file
from nas_osr.files.text import read_object
from nas_osr.plans import LearningData
from nas_osr.runs.names import WARM_START_FILE
from nas_osr.runs.progress import tell
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.architectures.canonical import fingerprint
from nas_osr.search_spaces.budgets import network_sizes
from nas_osr.search_spaces.network import DiscreteNetwork
from nas_osr.search_spaces.space import Space
from nas_osr.search_spaces.zero_cost import zero_cost
from nas_osr.seeds import derive_seed
from nas_osr.strategies.base import SearchPlan
from nas_osr.strategies.trials.asking import draw_within

IMAGES = 64  # kept training images of which a score sees a batch, or two
OF_SIZE = ("parameters", "macs")


def first_trials(
    plan: SearchPlan, data: LearningData, device: torch.device, folder: Path | None
) -> tuple[Architecture, ...]:
    """What is tried first, the best first; none without a warm start.

    It is kept in the run's folder, so that whoever goes on with the search, or helps it, has the same.
    """
    config, path = plan.strategy.config, None if folder is None else folder / WARM_START_FILE
    if config.warm_start == "none":
        return ()
    if path is not None and path.exists():
        return read_first(path, plan.space)
    if not plan.output.quiet:
        tell(f"scoring {config.warm_draws} untrained networks by {config.warm_start}, for the first trials")
    drawn = draw_different(plan)
    scores = score_untrained(plan, drawn, data, device)
    best = rank(scores)[: config.warm_trials]
    if path is not None:
        rows = [{"score": scores[place], **drawn[place].describe()} for place in best]
        with replace_file(path) as file:
            file.write((json.dumps({"by": config.warm_start, "first": rows}, indent=2) + "\n").encode())
    return tuple(drawn[place] for place in best)


def read_first(path: Path, space: Space) -> tuple[Architecture, ...]:
    """What `first_trials` keeps. Raises UserError."""
    rows = read_object(path).get("first")
    if not isinstance(rows, list):
        raise UserError(f"{path}: not what a warm start leaves")
    return tuple(Architecture.from_description(space, row) for row in rows)


def draw_different(plan: SearchPlan) -> list[Architecture]:
    """So many uniform draws within the budget, of equal networks the first."""
    found: dict[str, Architecture] = {}
    for number in range(plan.strategy.config.warm_draws):
        drawn = draw_within(plan, derive_seed(plan.seed, "warm start", number))
        found.setdefault(fingerprint(drawn), drawn)
    return [*found.values()]


def score_untrained(
    plan: SearchPlan, drawn: Sequence[Architecture], data: LearningData, device: torch.device
) -> list[float | None]:
    """The zero-cost score of each with fresh weights, on kept training images; None where it is not finite."""
    name = plan.strategy.config.warm_start
    if name in OF_SIZE:
        sizes = (network_sizes(one, plan.protocol.image_shape, memory=False) for one in drawn)
        return [float(getattr(size, name)) for size in sizes]
    images = plan.divide(data).fit_sample.to(device)
    batch = to_float(images.images[:IMAGES]), images.labels[:IMAGES]
    found: list[Any] = []
    for architecture in drawn:
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(plan.seed, "warm start"))
            network = plan.make_encoder(DiscreteNetwork, architecture).to(device)
        score = zero_cost(name, network, *batch)
        found.append(score if math.isfinite(score) else None)
    return found


def rank(scores: Sequence[float | None]) -> list[int]:
    """Their places by falling score; of equal ones the first, those without one last."""
    return sorted(range(len(scores)), key=lambda place: math.inf if (score := scores[place]) is None else -score)
