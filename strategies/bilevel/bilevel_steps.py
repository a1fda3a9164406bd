"""`nas-osr bench`: what the steps of a bilevel search cost, on random images."""

from __future__ import annotations

from typing import Any

from lightning_fabric import Fabric
from torch import nn

from nas_osr.cost.steps import describe_cost, measure_steps
from nas_osr.data.protocols import Protocol
from nas_osr.search_spaces.encoder import feature_shapes
from nas_osr.search_spaces.supernet import Supernet
from nas_osr.strategies.bilevel.search_cost import build_levels, make_steps
from nas_osr.strategies.search_plan import plan_measurement
from nas_osr.strategies.search_request import SearchRequest


def benchmark_search(
    config: SearchRequest, protocol: Protocol, fabric: Fabric, rounds: int, warmup: int
) -> dict[str, Any]:
    """Measure a weight step and an architecture step of the supernet, with the classes that PAS keeps.

    Wrap the call in `nas_osr.cost.steps.leave_no_trace`.

    Args:
        config: the request of a bilevel search; open fields are filled from the preset. No data are opened.
        protocol: the classes and images.
        rounds, warmup: see `nas_osr.cost.steps.take_turns`.

    Returns:
        What `nas_osr.cost.steps.measure_steps` returns for the steps `weights` and `architecture`, and
        classes: how many are kept;
        pair: one of each step: a batch of the weight half and as large a one of the architecture half;
        cell_evaluations: mixed operations evaluated in one forward pass of the supernet; cell_forms: those built.

    Raises:
        UserError: anything in the request is wrong.
    """
    plan = plan_measurement(config, protocol)
    levels, schedule = build_levels(plan, fabric)
    evaluations, forms = count_cell_evaluations(levels.supernet, protocol.image_shape)
    steps = make_steps(levels, schedule, plan.weights.batch_size, plan.machine.graphs)
    result = measure_steps(steps, fabric, rounds, warmup)
    weights, architecture = result["steps"]["weights"], result["steps"]["architecture"]
    pair = describe_cost(
        weights["seconds"] + architecture["seconds"],
        weights["images"],
        weights["launches"] + architecture["launches"],
        weights["flops"] + architecture["flops"],
        result["matrix_product"]["flops_per_second"],
    )
    return {
        **result,
        "classes": levels.heads.num_classes,
        "pair": pair,
        "cell_evaluations": evaluations,
        "cell_forms": forms,
    }


def count_cell_evaluations(supernet: Supernet, image_shape: tuple[int, int, int]) -> tuple[int, int]:
    """Mixed operations evaluated in one forward pass, and how many forms of cells are built."""
    forms: list[nn.Module] = [*supernet.network.keep.values(), *supernet.network.halve.values()]
    calls: list[nn.Module] = []
    hooks = [form.register_forward_hook(lambda form, inputs, output: calls.append(form)) for form in forms]
    feature_shapes(supernet, image_shape)
    for hook in hooks:
        hook.remove()
    return len(calls), len(forms)
