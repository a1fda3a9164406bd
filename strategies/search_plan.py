"""From what a user asks of a search to its plan."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from typing import Any, NoReturn, TypeVar

from nas_osr.data.augmentation import default_augmentation
from nas_osr.data.protocols import Protocol
from nas_osr.errors import UserError
from nas_osr.plans import (
    DataPlan,
    ObjectivePlan,
    SchedulePlan,
    decide_precision,
    given,
    import_plugins,
    plan_data,
    plan_machine,
    plan_objective,
    plan_output,
    same_fields,
)
from nas_osr.requests import OutputOptions, write_down
from nas_osr.search_spaces.amounts import AMOUNTS, LIMITS, parse_amount
from nas_osr.search_spaces.budgets import Budget
from nas_osr.search_spaces.checks import check_space
from nas_osr.search_spaces.constrained import check_budget
from nas_osr.search_spaces.presets import get_preset, preset_objective, space_of
from nas_osr.search_spaces.space import Space
from nas_osr.strategies import make_strategy
from nas_osr.strategies.base import SearchPlan
from nas_osr.strategies.search_request import SearchRequest
from nas_osr.sweeps.backends import check_backend, job_resources
from nas_osr.sweeps.job_options import JobOptions
from nas_osr.training.recipes import Recipe

Saving = TypeVar("Saving", bound=OutputOptions)
OPEN_CHOICES = frozenset(
    {"space", "stems", "activations", "poolings", "outputs", "widths", "two_inputs"}
)  # as the space has them


def plan_search(request: SearchRequest) -> SearchPlan:
    """The plan of a search. The preset fills what is left open; no image is opened.

    UserError: anything in the request is wrong.
    """
    request = replace(request)  # which is checked again: a script may have set a field
    check_backend(request, in_turn=True)
    if request.backend == "shared":
        if request.jobs == 1:
            raise UserError(
                "backend shared: say with --jobs how many processes share the folder, the same number in each"
            )
        request = share(request)
    import_plugins(request.plugin)
    request = write_down(with_objective(request), request.split)
    protocol = request.published_protocol(request.split)
    objective = plan_objective(request, protocol, "search")
    return assemble(request, objective, plan_data(request, protocol, protocol, objective))


def share(request: Saving) -> Saving:
    """The request of one of several processes on one folder. UserError: it cannot be shared."""
    if request.overwrite:
        raise UserError("backend shared: --overwrite would take the folder from the other processes: remove it before")
    return replace(request, resume="auto")


def check_jobless(request: SearchRequest) -> None:
    """UserError when something is asked of the jobs of a strategy that has none."""
    for item in fields(JobOptions):
        if getattr(request, item.name) != item.default:
            left = "leave it out" if item.default is None else f"leave it at {item.default}"
            raise UserError(f"{item.name}: strategy {request.strategy} trains one network, in this process: {left}")


def plan_measurement(request: SearchRequest, protocol: Protocol) -> SearchPlan:
    """The plan of a search on these classes of which steps alone are wanted: it has no images. Raises UserError."""

    def load() -> NoReturn:
        raise RuntimeError("steps are measured on random images")

    no_data = DataPlan(protocol, load, load, lambda: [0] * protocol.num_known)
    request = with_objective(request)
    return assemble(request, plan_objective(request, protocol, "search"), no_data)


def plan_space(request: SearchRequest) -> Space:
    """The space that a request names, at the preset's size, with what it says of its fields. Raises UserError."""
    asked = {name: value for name, value in same_fields(Space, request).items() if value not in (None, [])}
    if "stem" in asked and "stems" not in asked:
        asked["stems"] = ()
    return replace(space_of(request.space, request.preset), **asked)


def record_space(request: SearchRequest, space: Space) -> dict[str, Any]:
    """What config.yaml holds of a space: of the whole network's choices those that there are."""
    found = {name: value for name, value in asdict(space).items() if value != ()}
    if request.space is not None:
        return {"space": request.space, **found}
    return {name: value for name, value in found.items() if value is not False}


def with_objective(request: SearchRequest) -> SearchRequest:
    """The request with what the preset says of its objective. Raises UserError."""
    return replace(request, **preset_objective(request.preset, request.objective, request.objective_config))


def weight_recipe(request: SearchRequest) -> Recipe:
    """How network weights learn while an architecture is searched."""
    return Recipe(
        request.weight_lr,
        optimizer="adam",
        weight_decay=request.weight_decay,
        decay=request.weight_lr_decay,
        clip=request.clip,
        augmentation=request.augmentation,
    )


def assemble(request: SearchRequest, objective: ObjectivePlan, data: DataPlan) -> SearchPlan:
    """The plan from its pieces. Raises UserError."""
    request = decide_precision(request, request.preset)
    preset, protocol, space = get_preset(request.preset), data.protocol, plan_space(request)
    check_space(space, protocol.image_shape)
    parameters, macs, memory = (parse_amount(getattr(request, name), name) for name in AMOUNTS)
    budget = Budget(protocol.image_shape, parameters, macs, memory, request.max_latency)
    check_budget(budget, space)
    usual = SearchRequest.augmentation
    augmentation = objective.kind.choose_augmentation(request.augmentation, usual, "--augmentation")
    request = replace(request, augmentation=default_augmentation(protocol, augmentation).recipe)
    strategy = make_strategy(request.strategy, request.strategy_config, request.preset, space)
    given_pseudo = None if request.pseudo_unknown is None else protocol.labels_of(request.pseudo_unknown)
    classes = strategy.classes(protocol, given_pseudo, request.seed)
    pseudo_unknown = [protocol.class_names[label] for label in classes.pseudo]
    filled = {
        "epochs": given(request.epochs, strategy.epochs.get(request.preset, preset.epochs)),
        "batch_size": request.batch_or(preset.batch_size),
    }
    weights = SchedulePlan(weight_recipe(request), **filled)
    objective.check_divided(weights.batch_size)
    plan = SearchPlan(
        strategy=strategy,
        space=space,
        budget=budget,
        data=data,
        classes=classes,
        whole_objective=objective,
        latency_table=request.latency_table,
        rule_sample=request.rule_sample,
        weights=weights,
        machine=plan_machine(request),
        output=plan_output(request),
        jobs=request.jobs,
        backend=request.backend,
        resources=job_resources(request, [request.device]),
        seed=request.seed,
        first=(),
        among=(),
        found={
            "image_shape": list(protocol.image_shape),
            "strategy": request.strategy,
            "objective": request.objective,
            "rule": objective.rule,
            "protocol": request.protocol,
            "family": request.family,
            **{
                name: getattr(request, name)
                for name in ("known", "unknown", "class_seed", "grey")
                if getattr(request, name) is not None
            },
            "image_size": request.image_size,  # always there: see `name_former_classes`
            "split": request.split,
            "seed": request.seed,
            "pseudo_unknown": pseudo_unknown,
            **{name: limit for name in LIMITS if (limit := getattr(request, name)) is not None},
        },
        recorded={
            **{name: value for name, value in request.recorded().items() if name not in OPEN_CHOICES},
            **record_space(request, space),
            "strategy_config": asdict(strategy.config),
            "objective_config": asdict(objective.settings),
            "rule": objective.rule,
            **filled,
            "pseudo_unknown": pseudo_unknown,
        },
    )
    if not strategy.tries:
        check_jobless(request)
    if request.latency_table is not None and not plan.needs_latencies:
        raise UserError("latency_table: nothing asks for latencies: name a --max_latency, too, or leave it out")
    strategy.check_plan(plan)
    return plan
