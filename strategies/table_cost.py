"""What the trainings of a table will take, from a few of its architectures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from lightning_fabric import Fabric

from nas_osr.cost.whole_run import Cost
from nas_osr.data.sources import open_source
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.presets import get_preset
from nas_osr.strategies.base import SearchPlan
from nas_osr.strategies.pseudo_unknown import count_search_images
from nas_osr.strategies.table_training import TablePlan
from nas_osr.strategies.trials.base import trial_cost

TIMED = 4  # architectures, evenly spread over the table


def table_seconds(plan: TablePlan, architectures: Sequence[Architecture]) -> dict[str, float]:
    """Seconds of all trainings, one after the other on this device: `true` on all known classes, `pas` as in a search.

    Random images are trained on, a few steps of each kind; no data are opened.
    """
    timed = architectures[:: max(1, len(architectures) // TIMED)][:TIMED]
    width, tested = get_preset(plan.request.preset).retrain_channels, count_test_images(plan)
    wide = [architecture.with_network(channels=width) for architecture in timed]
    found = {}
    for name, part, times, own, judged in (
        ("true", plan.true, plan.request.seeds, wide, tested),
        ("pas", plan.trial, len(plan.rotations), timed, 0),
    ):
        costs = [partial(judged_training_cost, replace(part, space=one.space), one, judged) for one in own if times]
        seconds = [plan.trial.machine.estimate(cost)["seconds"] for cost in costs]
        found[name] = len(architectures) * times * sum(seconds) / len(own)
    return found


def judged_training_cost(plan: SearchPlan, architecture: Architecture, tested: int, fabric: Fabric) -> Cost:
    """One training that is judged after every epoch, on `tested` test images besides known ones."""
    images = count_search_images(plan.data.count_known(), plan.classes, plan.rule_sample)
    epochs = plan.weights.epochs
    return replace(trial_cost(plan, architecture, epochs, fabric), scored=(images.judged + tested) * epochs)


def count_test_images(plan: TablePlan) -> int:
    """Known and unknown ones."""
    protocol, limit = plan.trial.protocol, plan.request.limit_per_class
    total = 0
    for name, classes in ((protocol.source, protocol.known_classes), (protocol.unknown_source, protocol.unknown)):
        source = open_source(name, plan.request.data_folder)
        counts = source.count_classes("test")
        total += sum(min(counts.get(class_id, 0), limit or counts.get(class_id, 0)) for class_id in source.ids(classes))
    return total
