"""Steps in float32 and in bf16: python tests/benchmarks/precision.py --preset small

Both precisions take turns in one run; a figure is the median over the rounds of a step's processor seconds, which other
processes on the machine disturb less. The networks are those of `nas-osr bench`.
"""

from __future__ import annotations

import argparse
import statistics
import time

from nas_osr.cost.steps import Step, leave_no_trace
from nas_osr.data.protocols import make_protocol
from nas_osr.retrain.retrain_cost import training_cost
from nas_osr.retrain.retrain_plan import plan_measured
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.runs.resumption import PRECISIONS
from nas_osr.strategies.search_plan import plan_measurement
from nas_osr.strategies.search_request import SearchRequest
from nas_osr.training.fabric import make_fabric

RETRAININGS = {
    "retrain published": {"architecture": "published"},
    "retrain resnet18": {"network": "resnet18", "objective": "cross_entropy"},
    "retrain cac": {"network": "cac", "objective": "cac"},
}


def build(protocol_name: str, preset: str, precision: str, baselines: bool) -> dict[str, Step]:
    """A step of each kind."""
    protocol, fabric = make_protocol(protocol_name), make_fabric("cpu", precision, 1)
    search = plan_measurement(SearchRequest(protocol=protocol_name, preset=preset), protocol)
    cost = search.strategy.cost(search, fabric)
    steps = {step.name: step for step in cost.make_steps(cost.batch_size)}
    for name, named in RETRAININGS.items():
        if baselines or "architecture" in named:
            plan = plan_measured(RetrainRequest(protocol=protocol_name, preset=preset, **named), protocol)
            retraining = training_cost(plan, fabric)
            [steps[name]] = retraining.make_steps(retraining.batch_size)
    return steps


def main() -> None:
    """Measure and print a row for each kind of step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--protocol", default="cifar10")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--baselines", action="store_true", help="ResNet-18 and CAC's network as well")
    options = parser.parse_args()
    with leave_no_trace():
        steps = {name: build(options.protocol, options.preset, name, options.baselines) for name in PRECISIONS}
        seconds: dict[tuple[str, str], list[float]] = {}
        for turn in range(options.rounds + 1):
            for kind in steps[PRECISIONS[0]]:
                for precision in PRECISIONS:
                    started = time.process_time()
                    steps[precision][kind].run()
                    if turn:  # the first warms up
                        seconds.setdefault((kind, precision), []).append(time.process_time() - started)
    for kind, step in steps[PRECISIONS[0]].items():
        plain, mixed = (statistics.median(seconds[kind, precision]) for precision in PRECISIONS)
        print(f"{kind:20} {step.images:4} images  float32 {plain:.3f} s  bf16 {mixed:.3f} s  ratio {plain / mixed:.2f}")


if __name__ == "__main__":
    main()
