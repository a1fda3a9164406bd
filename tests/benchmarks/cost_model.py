"""FLOPs and seconds of a bilevel step against one thing at a time, and the exponents with which they grow.

    python tests/benchmarks/cost_model.py                      # prints the table
    python tests/benchmarks/cost_model.py --out docs/images/cost-model.svg

FLOPs are torch's own count of a weight step and an architecture step. Seconds are those of one thread, the best of some
rounds in which all settings take turns, and no more than this process's processor time: indicative on a busy machine.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from nas_osr.cost.estimate import time_once
from nas_osr.cost.steps import count_flops, leave_no_trace
from nas_osr.data.protocols import Protocol, make_protocol
from nas_osr.strategies.search_plan import plan_measurement
from nas_osr.strategies.search_request import SearchRequest
from nas_osr.training.fabric import make_fabric

BASE: dict[str, Any] = {"layers": 4, "channels": 32, "classes": 4, "batch": 16, "size": 32, "operations": 3}
VARIED: dict[str, Sequence[int]] = {
    "layers": (3, 4, 6, 8, 12),
    "channels": (16, 32, 64, 128),
    "classes": (2, 4, 8, 16),
    "batch": (4, 8, 16, 32),
    "size": (16, 32, 48, 64),
    "operations": (1, 2, 3),
}
#: convolutions first, so that each of the three costs something but the last, which passes its input on
OPERATIONS = ("conv", "conv2", "skip")
TITLES = {"classes": "known classes that are kept", "batch": "images of a batch", "size": "side of the images"}


def make_pair(layers: int, channels: int, classes: int, batch: int, size: int, operations: int) -> Callable[[], None]:
    """A weight step and an architecture step, as one call."""
    protocol: Protocol = replace(
        make_protocol("cifar10"),
        known=tuple((str(label),) for label in range(classes)),
        pseudo_unknown=None,
        image_shape=(3, size, size),
    )
    request = SearchRequest(
        preset="tiny", layers=layers, channels=channels, operations=list(OPERATIONS[:operations]), batch_size=batch,
        pseudo_unknown=[],
    )  # fmt: skip
    plan = plan_measurement(request, protocol)
    steps = plan.strategy.cost(plan, make_fabric("cpu", "32-true", 1)).make_steps(batch)

    def run() -> None:
        for step in steps:
            step.run()

    return run


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """The slope of the line through (log x, log y) with least squares."""
    logs = [(math.log(x), math.log(y)) for x, y in points]
    mean_x, mean_y = (sum(column) / len(logs) for column in zip(*logs, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in logs) / sum((x - mean_x) ** 2 for x, _ in logs)


def measure(rounds: int) -> dict[str, list[tuple[int, int, float]]]:
    """By what is varied: value, FLOPs, seconds."""
    pairs = {(name, value): make_pair(**{**BASE, name: value}) for name, values in VARIED.items() for value in values}
    flops = {key: count_flops(run) for key, run in pairs.items()}
    seconds = dict.fromkeys(pairs, math.inf)
    for _ in range(rounds):
        for key, run in pairs.items():
            seconds[key] = min(seconds[key], time_once(run, torch.device("cpu")))
    return {
        name: [(value, flops[name, value], seconds[name, value]) for value in values] for name, values in VARIED.items()
    }


def draw(found: dict[str, list[tuple[int, int, float]]], path: str) -> None:
    """One panel for each thing that is varied, both axes logarithmic."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "cost model"  # equal figures have equal bytes
    from matplotlib import pyplot
    from matplotlib.ticker import NullFormatter

    figure, axes = pyplot.subplots(2, 3, figsize=(11, 6.2), layout="constrained")
    for axis, (name, rows) in zip(axes.flat, found.items(), strict=True):
        values, flops, seconds = (list(column) for column in zip(*rows, strict=True))
        other = axis.twinx()
        lines = [
            *axis.loglog(values, [item / 1e9 for item in flops], "o-", color="tab:blue", label="GFLOP"),
            *other.loglog(values, seconds, "s--", color="tab:orange", label="seconds, one thread"),
        ]
        axis.set_xlabel(TITLES.get(name, name))
        axis.set_xticks(values, [str(value) for value in values])
        axis.xaxis.set_minor_formatter(NullFormatter())
        other.xaxis.set_minor_formatter(NullFormatter())
        axis.set_ylabel("GFLOP a bilevel step")
        other.set_ylabel("seconds")
        for side, column in ((axis, [item / 1e9 for item in flops]), (other, seconds)):
            side.set_yticks(column, [f"{item:.2g}" for item in column])
            side.yaxis.set_minor_formatter(NullFormatter())
        axis.legend(handles=lines, fontsize=8, loc="upper left")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", help="SVG file for the plot")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with leave_no_trace():
        found = measure(options.rounds)
    base = ", ".join(f"{name} {value}" for name, value in BASE.items())
    print(f"base: {base}; objective vae_contrastive\n")
    print("| varied | values | GFLOP | exponent | seconds | exponent |\n|---|---|---|---|---|---|")
    for name, rows in found.items():
        cells = [
            TITLES.get(name, name),
            ", ".join(str(value) for value, _, _ in rows),
            ", ".join(f"{flops / 1e9:.3g}" for _, flops, _ in rows),
            f"{exponent([(value, flops) for value, flops, _ in rows]):.2f}",
            ", ".join(f"{seconds:.2g}" for _, _, seconds in rows),
            f"{exponent([(value, seconds) for value, _, seconds in rows]):.2f}",
        ]
        print(f"| {' | '.join(cells)} |")
    if options.out:
        draw(found, options.out)


if __name__ == "__main__":
    main()
