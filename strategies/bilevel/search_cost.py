"""What a bilevel search computes, from its own supernet; and its steps, measured."""

from __future__ import annotations

from functools import partial
from typing import Any

from lightning_fabric import Fabric
from torch import Tensor, nn

from nas_osr.cost.steps import describe_cost, random_outliers
from nas_osr.cost.whole_run import Cost, random_step
from nas_osr.data.protocols import Protocol
from nas_osr.objectives.parts.freezing import frozen
from nas_osr.search_spaces.encoder import feature_shapes
from nas_osr.search_spaces.supernet import Supernet
from nas_osr.strategies.base import SearchPlan
from nas_osr.strategies.bilevel.levels import Levels, capturing
from nas_osr.strategies.pseudo_unknown import count_search_images
from nas_osr.strategies.search_plan import plan_measurement
from nas_osr.strategies.search_request import SearchRequest
from nas_osr.training.graphs import DEVICES, Choice


def search_cost(plan: SearchPlan, fabric: Fabric, graphs: Choice = "off") -> Cost:
    """See `nas_osr.strategies.base.Strategy.cost`; outliers are random ones where the objective needs some.

    `graphs` is whether the steps are captured.
    """
    levels = Levels(plan, fabric, random_outliers(plan.protocol.image_shape))
    levels.learner.train()
    learner, schedule = levels.learner, plan.weights.make(levels.heads, plan.protocol, plan.seed)

    def ahead(images: Tensor, labels: Tensor, progress: Any) -> dict[str, Tensor]:
        return levels.unrolled_step(images, labels, progress, (images, labels))

    graphs = capturing(plan.strategy.config, graphs, fabric)
    weight_step = partial(
        random_step,
        "weights",
        fabric,
        learner,
        levels.players,
        schedule,
        graphs=graphs,
        update=partial(levels.weight_step, schedule=schedule),
        around=levels.fixed_architecture,
    )
    architecture_step = partial(
        random_step,
        "architecture",
        fabric,
        learner,
        {"main": levels.architecture},
        schedule,
        graphs=graphs,
        update=ahead if plan.strategy.config.unrolled else levels.architecture_step,
        around=lambda: frozen(learner, levels.frozen_weights),
    )
    images = count_search_images(plan.data.count_known(), plan.classes, plan.rule_sample)
    epochs, batch_size, warmup_epochs = plan.weights.epochs, plan.weights.batch_size, plan.strategy.config.warmup_epochs
    steps = images.half // batch_size
    return Cost(
        learner=learner,
        optimizers=[*levels.players.values(), levels.architecture],
        steps={
            "weights": weight_step,
            "architecture": architecture_step,
        },
        batch_size=batch_size,
        protocol=plan.protocol,
        counts={"weights": steps * epochs, "architecture": steps * (epochs - warmup_epochs)},
        # the supernet, and the network that it decodes to with new statistics, which is smaller but shares the heads
        scored=(2 * images.judged + min(plan.rule_sample, images.training)) * epochs,
        resident=2 * images.half + images.judged,
        captured=plan.machine.graphs != "off" and fabric.device.type in DEVICES,
        about={"epochs": epochs, "warmup_epochs": warmup_epochs, "training_images": images.half},
    )


def benchmark_search(
    config: SearchRequest, protocol: Protocol, fabric: Fabric, rounds: int, warmup: int
) -> dict[str, Any]:
    """Measure the steps of a search, with the classes that it keeps: of a bilevel one a weight step and an architecture
    step of the supernet.

    Wrap the call in `nas_osr.cost.steps.leave_no_trace`.

    Args:
        config: the request of a search; open fields are filled from the preset. No data are opened.
        protocol: the classes and images.
        rounds, warmup: see `nas_osr.cost.steps.take_turns`.

    Returns:
        What `Cost.measure` returns for the steps, and of a bilevel search
        pair: one of each step: a batch of the weight half and as large a one of the architecture half;
        cell_evaluations: mixed operations evaluated in one forward pass of the supernet; cell_forms: those built.

    Raises:
        UserError: anything in the request is wrong.
    """
    plan = plan_measurement(config, protocol)
    if not hasattr(plan.strategy.config, "architecture_lr"):
        return plan.strategy.cost(plan, fabric).measure(fabric, rounds, warmup)
    cost = search_cost(plan, fabric, plan.machine.graphs)
    evaluations, forms = count_cell_evaluations(cost.learner.module.encoder, protocol.image_shape)
    result = cost.measure(fabric, rounds, warmup)
    weights, architecture = result["steps"]["weights"], result["steps"]["architecture"]
    pair = describe_cost(
        weights["seconds"] + architecture["seconds"],
        weights["images"],
        weights["launches"] + architecture["launches"],
        weights["flops"] + architecture["flops"],
        result["matrix_product"]["flops_per_second"],
    )
    return {**result, "pair": pair, "cell_evaluations": evaluations, "cell_forms": forms}


def count_cell_evaluations(supernet: Supernet, image_shape: tuple[int, int, int]) -> tuple[int, int]:
    """Mixed operations evaluated in one forward pass, and how many forms of cells are built."""
    forms: list[nn.Module] = [*supernet.network.keep.values(), *supernet.network.halve.values()]
    calls: list[nn.Module] = []
    hooks = [form.register_forward_hook(lambda form, inputs, output: calls.append(form)) for form in forms]
    feature_shapes(supernet, image_shape)
    for hook in hooks:
        hook.remove()
    return len(calls), len(forms)
