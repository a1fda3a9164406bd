"""What the choice of subclusters does, complete and frozen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch

from nas_osr.data.dataset import LabelledImages, OpenSetData
from nas_osr.data.protocols import Protocol
from nas_osr.errors import UserError
from nas_osr.plans import OutputPlan
from nas_osr.retrain.retrain_plan import Part, plan_retrain
from nas_osr.retrain.subclusters.subclusters_request import SubclustersRequest


@dataclass(frozen=True)
class SubclustersPlan:
    """A choice of subclusters.

    Attributes:
        parts: the trainings: every class with each count in turn, the counts ascending.
        load_known: reads the images of all known classes, once.
        gain, tolerance: see `nas_osr.retrain.subclusters.choice.recommend`; the tolerance in nats a pixel value.
        output: where it goes.
        recorded: what its config.yaml holds.
    """

    parts: tuple[Part, ...]
    load_known: Callable[[], OpenSetData]
    gain: float
    tolerance: float
    output: OutputPlan
    recorded: Mapping[str, Any]


def plan_subclusters(request: SubclustersRequest) -> SubclustersPlan:
    """The plan of a request, of which what is open is filled as that of a retraining is. No image is opened.

    UserError: anything in the request is wrong.
    """
    counts = sorted(set(request.counts))
    if len(counts) < 2 or len(counts) < len(request.counts):
        raise UserError(f"counts must be two or more different numbers from 1, such as 1,2,3; got {request.counts}")
    if "subclusters" in request.objective_config:
        raise UserError("objective_config.subclusters is what this command chooses: give --counts instead")
    retraining = plan_retrain(request.as_retrain())
    whole = retraining.parts[0]
    load_known = cache(whole.data.load_known)
    labels = range(whole.training.protocol.num_known)
    parts = tuple(plan_class(whole, load_known, label, count) for label in labels for count in counts)
    filled = {name: value for name, value in whole.recorded.items() if name in request.recorded()}
    settings = {name: value for name, value in filled["objective_config"].items() if name != "subclusters"}
    chosen = {"counts": counts, "split": int(whole.recorded["splits"]), "objective_config": settings}
    recorded = {**request.recorded(), **filled, **chosen}
    return SubclustersPlan(parts, load_known, request.gain, request.tolerance, retraining.output, recorded)


def plan_class(whole: Part, load_known: Callable[[], OpenSetData], label: int, count: int) -> Part:
    """The training on the images of one class, with so many subclusters; its record is class and subclusters."""
    training, protocol = whole.training, class_protocol(whole.training.protocol, label)
    [name] = protocol.class_names
    objective = replace(training.objective, settings=replace(training.objective.settings, subclusters=count))
    return Part(
        f"{name}, {count}",
        whole.seed,
        replace(training, protocol=protocol, objective=objective),
        replace(
            whole.data,
            protocol=protocol,
            load_known=lambda: class_data(load_known(), label),
            count_known=lambda: whole.data.count_known()[label : label + 1],
        ),
        {"class": name, "subclusters": count},
    )


def class_protocol(protocol: Protocol, label: int) -> Protocol:
    """One known class alone, which becomes label 0."""
    return replace(
        protocol,
        known=protocol.known[label : label + 1],
        known_names=protocol.known_names[label : label + 1],
        unknown=(),
        unknown_names=(),
    )


def class_data(data: OpenSetData, label: int) -> OpenSetData:
    """The known images of one class alone."""

    def select(images: LabelledImages) -> LabelledImages:
        own = images.select(images.labels == label)
        return replace(own, labels=torch.zeros_like(own.labels))

    protocol = class_protocol(data.protocol, label)
    return OpenSetData(protocol, select(data.train), select(data.validation), None, None)
