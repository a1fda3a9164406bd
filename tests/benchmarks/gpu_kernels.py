"""Where the time of a pair of captured search steps goes: python3 gpu_kernels.py DEVICE PRESET BATCH."""

from __future__ import annotations

import sys

import torch
from torch.profiler import ProfilerActivity, profile

from nas_osr.cost.steps import now
from nas_osr.data.protocols import make_protocol
from nas_osr.strategies.bilevel.search_cost import search_cost
from nas_osr.strategies.search_plan import plan_measurement
from nas_osr.strategies.search_request import SearchRequest
from nas_osr.training.fabric import make_fabric
from nas_osr.training.graphs import WARM_UP

ROUNDS = 3


def main(device: str, preset: str, batch_size: int) -> None:
    """Profile some replayed pairs and print the kernels that take longest."""
    protocol = make_protocol("cifar10", 0, family="nas_osr")
    fabric = make_fabric(device, "bf16-mixed", 0)
    plan = plan_measurement(SearchRequest(preset=preset, batch_size=batch_size), protocol)
    steps = search_cost(plan, fabric, "on").make_steps(batch_size)
    for _ in range(WARM_UP + 2):
        for step in steps:
            step.run()
    for step in steps:
        started = now(fabric.device)
        for _ in range(ROUNDS):
            step.run()
        print(f"{step.name}: {1000 * (now(fabric.device) - started) / ROUNDS:.2f} ms")
        started = now(fabric.device)
        step.augment()
        print(f"{step.name}: augmentation {1000 * (now(fabric.device) - started):.2f} ms")
    on_gpu = fabric.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiled:
        for _ in range(ROUNDS):
            for step in steps:
                step.run()
        now(fabric.device)
    order = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
    print(profiled.key_averages().table(sort_by=order, row_limit=22, max_name_column_width=70))
    if on_gpu:
        print(f"memory: {torch.cuda.max_memory_reserved() / 2**30:.1f} GiB reserved")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
