"""Plans are complete and frozen."""

from __future__ import annotations

import inspect
from dataclasses import FrozenInstanceError, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest

import nas_osr.plans
import nas_osr.retrain.retrain_plan
import nas_osr.retrain.subclusters.choice
import nas_osr.retrain.train
from nas_osr.retrain.retrain_plan import Part, plan_retrain
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.retrain.subclusters.choice import plan_subclusters
from nas_osr.retrain.subclusters.subclusters_request import SubclustersRequest

MODULES = (
    nas_osr.plans,
    nas_osr.retrain.train,
    nas_osr.retrain.retrain_plan,
    nas_osr.retrain.subclusters.choice,
)
PLANS = {
    item
    for module in MODULES
    for name, item in inspect.getmembers(module, is_dataclass)
    if isinstance(item, type) and (name.endswith("Plan") or item is Part)
}


def parts_of(hint: Any) -> set[Any]:
    """The types of a union, taken apart."""
    if get_origin(hint) in (Union, UnionType):
        return {part for inner in get_args(hint) for part in parts_of(inner)}
    return {hint}


@pytest.mark.parametrize("kind", sorted(PLANS, key=lambda kind: kind.__name__))
def test_no_field_is_open(kind: Any) -> None:
    assert kind.__dataclass_params__.frozen
    for name, hint in get_type_hints(kind).items():
        assert NoneType not in parts_of(hint), name


@pytest.mark.parametrize(
    "plan",
    [
        plan_retrain(RetrainRequest(protocol="digits", preset="tiny", splits="0-1", seeds="0,3")),
        plan_retrain(RetrainRequest(protocol="digits", network="cac", objective="cac", pseudo_unknown=[2])),
        plan_subclusters(SubclustersRequest(protocol="digits")),
    ],
    ids=["architecture", "network", "subclusters"],
)
def test_nothing_in_a_plan_is_left_out_or_can_change(plan: Any) -> None:
    seen = set()

    def walk(value: Any) -> None:
        if isinstance(value, tuple):
            for item in value:
                walk(item)
        elif type(value) in PLANS:
            seen.add(type(value))
            for item in fields(value):
                assert getattr(value, item.name) is not None, item.name
                with pytest.raises(FrozenInstanceError):
                    setattr(value, item.name, None)
                walk(getattr(value, item.name))

    walk(plan)
    assert len(seen) == 8  # of all pieces


def test_parts_are_every_split_with_every_seed() -> None:
    plan = plan_retrain(RetrainRequest(protocol="digits", splits="0-1", seeds="0,3"))
    assert [(part.folder, part.seed, part.training.protocol.split) for part in plan.parts] == [
        ("split-0-seed-0", 0, 0), ("split-0-seed-3", 3, 0), ("split-1-seed-0", 0, 1), ("split-1-seed-3", 3, 1),
    ]  # fmt: skip
    assert [part.recorded["seeds"] for part in plan.parts] == ["0", "3", "0", "3"]
