"""FLOPs and seconds of a bilevel step against one thing at a time, and the exponents with which they grow.

    python tests/benchmarks/cost_model.py                      # prints the table
    python tests/benchmarks/cost_model.py --out docs/images/cost-model.svg
    python tests/benchmarks/cost_model.py --table docs/results/how-fast.md --out docs/images/cost-model.svg

FLOPs are torch's own count of a weight step and an architecture step. Seconds are those of one thread, the best of some
rounds in which all settings take turns, and no more than this process's processor time: indicative on a busy machine.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from nas_osr.cost.estimate import time_once
from nas_osr.cost.steps import count_flops, leave_no_trace
from nas_osr.data.protocols import Protocol, make_protocol
from nas_osr.reports.style import looks, panels, save_figure, styled
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


def read_table(path: str) -> dict[str, list[tuple[int, int, float]]]:
    """What was measured before, from a page with the printed table."""
    names = {TITLES.get(name, name): name for name in VARIED}
    found = {}
    for line in Path(path).read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split("|")]
        if cells[0] in names and len(cells) == 6:
            values, flops, seconds = (cells[place].split(", ") for place in (1, 2, 4))
            rows = zip(values, flops, seconds, strict=True)
            found[names[cells[0]]] = [(int(x), round(float(y) * 1e9), float(z)) for x, y, z in rows]
    return found


@styled
def draw(found: dict[str, list[tuple[int, int, float]]]) -> Figure:
    """One panel for each thing that is varied: FLOPs and seconds as multiples of the base's, both axes logarithmic."""
    figure, axes = panels(len(found), 2, 0.85)
    heights: list[float] = []
    for axis, (name, rows) in zip(axes, found.items(), strict=True):
        values, flops, seconds = (list(column) for column in zip(*rows, strict=True))
        at = values.index(BASE[name])
        for (label, column), look in zip({"FLOPs": flops, "seconds": seconds}.items(), looks(), strict=False):
            axis.loglog(values, [item / column[at] for item in column], label=label, **look._asdict())
        axis.set_title(TITLES.get(name, name))
        axis.set_xticks(values, [str(value) for value in values])
        axis.set_yticks([0.25, 0.5, 1, 2, 4, 8, 16], ["1/4", "1/2", "1", "2", "4", "8", "16"])
        axis.minorticks_off()
        heights += [value / column[at] for column in (flops, seconds) for value in column]
    for axis in axes:
        axis.set_ylim(min(heights) / 1.2, max(heights) * 1.2)  # the same for all, so that slopes can be compared
    for axis in axes[::3]:
        axis.set_ylabel("times the base")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", help="SVG file for the plot")
    parser.add_argument("--table", help="page with the table of an earlier measurement, to draw that again")
    options = parser.parse_args()
    if options.table:
        save_figure(draw(read_table(options.table)), options.out)
        return
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
        save_figure(draw(found), options.out)


if __name__ == "__main__":
    main()
