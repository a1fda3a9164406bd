"""Steps with and without each fast path: kept layouts, fused optimisers.

    python tests/benchmarks/fast_paths.py --preset small

All variants take turns in one run; a figure is the median over the rounds of a step's seconds, and its ratio to
`all off`. Processor seconds are shown, which other processes on the machine disturb less.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Iterator
from unittest import mock

import torch

from nas_osr.cost.steps import Step, leave_no_trace
from nas_osr.data.protocols import make_protocol
from nas_osr.retrain.retrain_cost import training_cost
from nas_osr.retrain.retrain_plan import plan_measured
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.search_spaces import network
from nas_osr.search_spaces import supernet as hierarchical
from nas_osr.search_spaces.operations import parts
from nas_osr.strategies.search_plan import plan_measurement
from nas_osr.strategies.search_request import SearchRequest
from nas_osr.training.fabric import make_fabric

PATHS = ("layout", "fused")
VARIANTS = {"all off": (), **{f"only {path}": (path,) for path in PATHS}, "all on": PATHS}


@contextlib.contextmanager
def only(paths: tuple[str, ...]) -> Iterator[None]:
    """Inside: only these fast paths are taken. `fused` counts where optimisers are made, the others where they run."""
    with contextlib.ExitStack() as stack:
        if "layout" not in paths:
            for module in (hierarchical, network):
                stack.enter_context(mock.patch.object(module, "keep_layout", lambda maps: maps))
            plain = mock.patch.object(parts, "subsample", lambda x, start: x[:, :, start::2, start::2])
            stack.enter_context(plain)
        if "fused" not in paths:
            for kind in (torch.optim.Adam, torch.optim.SGD):
                made = kind.__init__

                def unfused(self, *args, made=made, fused=None, **settings):  # type: ignore[no-untyped-def]
                    made(self, *args, **settings)

                stack.enter_context(mock.patch.object(kind, "__init__", unfused))
        yield


def build(preset: str, threads: int) -> dict[str, Step]:
    """The three kinds of step on CIFAR-10's shape."""
    protocol, fabric = make_protocol("cifar10"), make_fabric("cpu", "32-true", threads)
    search = plan_measurement(SearchRequest(protocol="cifar10", preset=preset), protocol)
    retrain = plan_measured(RetrainRequest(preset=preset, architecture="random:0"), protocol)
    costs = (search.strategy.cost(search, fabric), training_cost(retrain, fabric))
    return {step.name: step for cost in costs for step in cost.make_steps(cost.batch_size)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    seconds: dict[tuple[str, str], list[float]] = {}
    with leave_no_trace():
        built = {}
        for variant, paths in VARIANTS.items():
            with only(paths):
                built[variant] = build(options.preset, options.threads)
        for turn in range(options.rounds + 1):
            for variant, paths in VARIANTS.items():
                for name, step in built[variant].items():
                    with only(paths):
                        started = time.process_time()
                        step.run()
                        elapsed = time.process_time() - started
                    if turn:  # the first is a warm-up
                        seconds.setdefault((variant, name), []).append(elapsed)
    names = list(built["all on"])
    print(f"{'':16}" + "".join(f"{name:>22}" for name in names))
    for variant in VARIANTS:
        row = ""
        for name in names:
            own, plain = (statistics.median(seconds[key, name]) for key in (variant, "all off"))
            row += f"{own:14.3f} s {own / plain:4.2f} x"
        print(f"{variant:16}{row}")


if __name__ == "__main__":
    main()
