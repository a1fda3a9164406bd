"""Not a test: what each of two ranks runs for test_replicas.py. Writes what it measured as rank-R.json."""

from __future__ import annotations

import atexit
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from nas_osr.cost.steps import random_outliers
from nas_osr.data.protocols import make_protocol
from nas_osr.errors import UserError
from nas_osr.ranks.first import FirstRank, check_same, opened_by_first
from nas_osr.ranks.place import current_rank
from nas_osr.ranks.replicas import assert_equal, average_statistics, own_rows, start_equal
from nas_osr.strategies.bilevel.levels import Levels
from nas_osr.strategies.search_plan import plan_measurement
from nas_osr.strategies.search_request import SearchRequest
from nas_osr.training.fabric import make_fabric
from nas_osr.training.learner import weight_step

OBJECTIVES: dict[str, dict[str, Any]] = {
    "vae_contrastive": {},
    "gmvae": {},
    "cac": {},
    "crosr": {},
    "cross_entropy": {"center_weight": 0.1},
    "confidence": {"gan_width": 4},
    "arpl": {"confusing_samples": True, "gan_width": 4},
}


class Alone:
    """What a step needs of Fabric, in one process: the oracle takes whole batches and averages nothing."""

    world_size = 1

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()


def gradients(parameters: Iterable[torch.nn.Parameter]) -> torch.Tensor:
    return torch.cat([torch.zeros(1)] + [item.grad.flatten() for item in parameters if item.grad is not None])


def distance(ours: torch.Tensor, expected: torch.Tensor) -> float:
    return float((ours - expected).norm() / expected.norm())


def compare_steps(fabric: Any, name: str) -> dict[str, float]:
    """How far the gradients of two ranks, and of one rank's rows alone, are from those of the whole batch."""
    # GANs make images of 32 pixels
    protocol = make_protocol("cifar10" if name in ("confidence", "arpl") else "digits")
    request = SearchRequest(
        protocol=protocol.name, preset="tiny", layers=3, objective=name, objective_config=OBJECTIVES[name]
    )
    levels: list[Levels] = []
    for _ in range(2):
        torch.manual_seed(0)
        outliers = random_outliers(protocol.image_shape)
        levels.append(Levels(plan_measurement(request, protocol), fabric, outliers))
    whole, ours = levels
    alone: Any = Alone()
    whole.fabric = alone
    if fabric.global_rank:  # start_equal mends it
        with torch.no_grad():
            next(ours.learner.parameters()).add_(1.0)
    start_equal(fabric, ours.learner)
    # BatchNorm over half of a batch is another function: in eval mode it is the same
    whole.learner.eval()
    ours.learner.eval()
    source = torch.Generator().manual_seed(1)
    images = torch.rand(8, *protocol.image_shape, generator=source)
    labels = torch.randint(whole.heads.num_classes, (8,), generator=source)
    own = own_rows(fabric, images), own_rows(fabric, labels)

    def step(which: Levels, batch: Any, kind: str) -> torch.Tensor:
        torch.manual_seed(7)
        if kind == "architecture":
            which.architecture_step(*batch, 0.5)
            return gradients(which.supernet.architecture_parameters.values())
        weight_step(which.fabric, which.learner, which.players, *batch, 0.5, 0.0)
        return gradients(
            item for optimizer in which.players.values() for group in optimizer.param_groups for item in group["params"]
        )

    result = {}
    for kind in ("architecture", "weights"):
        before = {key: value.clone() for key, value in whole.learner.state_dict().items()}
        expected = step(whole, (images, labels), kind)
        result[kind] = distance(step(ours, own, kind), expected)
        whole.learner.load_state_dict(before)
        result[f"{kind} of own rows alone"] = distance(step(whole, own, kind), expected)
        whole.learner.load_state_dict(before)
        ours.learner.load_state_dict(before)
    return result


def refusals(fabric: Any) -> dict[str, Any]:
    """What each rank hears when something fails on one of them."""
    found: dict[str, Any] = {}
    first = FirstRank(fabric, {"answer": 42} if fabric.global_rank == 0 else {})
    found["value"] = first.call(lambda value: value["answer"])

    def fail(*_: Any) -> Any:
        raise UserError("the disk is full")

    for name, attempt in {
        "first": lambda: first.call(fail),
        "opening": lambda: opened_by_first(fabric, fail).__enter__(),
        "same": lambda: check_same(fabric, "images", f"digest {fabric.global_rank}"),
        "equal": lambda: assert_equal(fabric, [torch.tensor([1.0 + 1e-7 * fabric.global_rank])], "weights"),
    }.items():
        try:
            attempt()
            found[name] = None
        except (UserError, RuntimeError) as error:
            found[name] = f"{type(error).__name__}: {error}"
    assert_equal(fabric, [torch.tensor([float("nan"), 2.0])], "weights")
    norm = torch.nn.BatchNorm2d(2)
    norm.running_mean.fill_(float(fabric.global_rank))
    average_statistics(fabric, torch.nn.Sequential(norm))
    found["mean"] = norm.running_mean.tolist()
    return found


def note_end(out: Path) -> None:
    """At exit, after everything that was registered later."""
    threads = [Path(f"/proc/self/task/{name}/comm").read_text().strip() for name in os.listdir("/proc/self/task")]
    left = {"joined": dist.is_initialized(), "threads": [name for name in threads if "gloo" in name]}
    (out / f"rank-{current_rank().index}-end.json").write_text(json.dumps(left))


def main(out: Path) -> None:
    atexit.register(note_end, out)
    fabric = make_fabric("cpu", "32-true", 1, ranks=True)
    measured = {name: compare_steps(fabric, name) for name in OBJECTIVES}
    result = {"gradients": measured, **refusals(fabric)}
    (out / f"rank-{current_rank().index}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
