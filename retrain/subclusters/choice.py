"""How many subclusters K_c each class of a GMVAE should have (Cao et al., choice of K_c).

Every known class is trained alone with each count and seed. More subclusters lower the covering loss, which says how
well the class's prior covers its latents; where that drop no longer pays at an equal reconstruction loss, the count is
enough (`curves.py`). Both losses are measured on known validation images after every epoch; unknown and test images are
never read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from typing import Any

import torch
from lightning_fabric import Fabric

from nas_osr.cost.whole_run import check_fits
from nas_osr.data.dataset import LabelledImages, OpenSetData
from nas_osr.data.protocols import Protocol
from nas_osr.errors import UserError
from nas_osr.plans import OutputPlan
from nas_osr.retrain.build import save_architecture
from nas_osr.retrain.retrain_cost import retrain_cost
from nas_osr.retrain.retrain_plan import Part, plan_retrain
from nas_osr.retrain.subclusters.curves import Curve, recommend
from nas_osr.retrain.subclusters.subclusters_request import SubclustersRequest
from nas_osr.runs.progress import ProgressReporter
from nas_osr.runs.recorder import Unkept
from nas_osr.runs.run_folder import RunFolder
from nas_osr.seeds import derive_seed
from nas_osr.training.determinism import deterministic_algorithms

SAMPLES = 1000  # of latents at least, of all validation images together: the losses are means over them


@dataclass(frozen=True)
class SubclustersPlan:
    """A choice of subclusters."""

    parts: tuple[Part, ...]
    "the trainings: every class with each count and seed in turn, the counts ascending."
    load_known: Callable[[], OpenSetData]
    "reads the images of all known classes, once."
    gain: float
    "see `recommend`."
    output: OutputPlan
    "where it goes."
    recorded: Mapping[str, Any]
    "what its config.yaml holds."


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
    seeds = [part.seed for part in retraining.parts]
    parts = tuple(
        plan_class(replace(whole, seed=seed), load_known, label, count)
        for label, count, seed in product(labels, counts, seeds)
    )
    filled = {name: value for name, value in whole.recorded.items() if name in request.recorded()}
    settings = {name: value for name, value in filled["objective_config"].items() if name != "subclusters"}
    split = int(whole.recorded["splits"])
    chosen = {"counts": counts, "split": split, "seeds": request.seeds, "objective_config": settings}
    recorded = {**request.recorded(), **filled, **chosen}
    return SubclustersPlan(parts, load_known, request.gain, retraining.output, recorded)


def plan_class(whole: Part, load_known: Callable[[], OpenSetData], label: int, count: int) -> Part:
    """The training on the images of one class, with so many subclusters; its record is class, subclusters and seed."""
    training, protocol = whole.training, class_protocol(whole.training.protocol, label)
    [name] = protocol.class_names
    objective = replace(training.objective, settings=replace(training.objective.settings, subclusters=count))
    return Part(
        f"{name}, {count}, seed {whole.seed}",
        whole.seed,
        replace(training, protocol=protocol, objective=objective),
        replace(
            whole.data,
            protocol=protocol,
            load_known=lambda: class_data(load_known(), label),
            count_known=lambda: whole.data.count_known()[label : label + 1],
        ),
        {"class": name, "subclusters": count, "seed": whole.seed},
    )


def class_protocol(protocol: Protocol, label: int) -> Protocol:
    """One known class alone, which becomes label 0."""
    return replace(
        protocol,
        known=protocol.known[label : label + 1],
        unknown=(),
    )


def class_data(data: OpenSetData, label: int) -> OpenSetData:
    """The known images of one class alone."""

    def select(images: LabelledImages) -> LabelledImages:
        own = images.select(images.labels == label)
        return replace(own, labels=torch.zeros_like(own.labels))

    protocol = class_protocol(data.protocol, label)
    return replace(data, protocol=protocol, train=select(data.train), validation=select(data.validation), _test=None)


def run_subclusters(request: SubclustersRequest, command: list[str]) -> dict[str, Any]:
    """Train every known class alone with each count, and recommend one; complete run folder in `request.out`.

    Returns:
        out; classes (each with its class name, the last losses in nats an image for every count and seed, the
        recommended count or None, and why there is none); subclusters, the recommended counts in label order; option,
        the same as an option of `nas-osr retrain`, or None where a class is undecided. With `dry_run` what would run,
        and an estimate.

    Raises:
        UserError: anything in the request is wrong, missing or in use, or does not fit into the device's memory
            (nothing is written then); a training diverged.
    """
    plan = plan_subclusters(request)
    training, output, cost = plan.parts[0].training, plan.output, partial(retrain_cost, plan.parts)
    if request.dry_run:
        plan.output.check()
        return {"would_train": plan.recorded, "estimate": training.machine.estimate(cost)}
    fabric = training.machine.open(ranks=False)
    digest = plan.load_known().fingerprint()
    with deterministic_algorithms(training.machine.deterministic), output.create() as run:
        if run.finished and output.resume:
            return {"out": output.out, **run.read_json("summary.json")}
        check_fits(cost, fabric)
        run.provenance(command, plan.recorded, plan.parts[0].seed, digest, **training.machine.conditions(fabric))
        save_architecture(training.network, run)
        result = recommend_counts(plan, train_classes(plan, fabric, run))
        run.write_json("summary.json", result)
        run.finish()
    return {"out": output.out, **result}


def train_classes(plan: SubclustersPlan, fabric: Fabric, run: RunFolder) -> list[dict[str, Any]]:
    """A record for every training, in order: class, subclusters, seed, and the losses on validation images by epoch.

    Each is appended to the run's history as soon as it is there; those of a resumed run are taken from it.
    """
    records = run.read_history()
    run.truncate_history(len(records))
    for part in plan.parts[len(records) :]:
        record = {**part.recorded, "curve": train_class(part, fabric, plan.output.quiet)}
        run.append_history(record)
        records.append(record)
    return records


def train_class(part: Part, fabric: Fabric, quiet: bool) -> list[dict[str, float]]:
    """Train a fresh network on the images of one class; its losses on the validation images after each epoch."""
    data, epochs = part.data.load(), part.training.schedule.epochs
    with torch.random.fork_rng(), ProgressReporter(epochs, quiet, part.folder) as reporter:
        torch.manual_seed(derive_seed(part.seed, "weights"))
        learner = part.training.build(data.outliers)
        recorder = Unkept(reporter)
        draws = math.ceil(SAMPLES / len(data.known.validation))
        part.training.train(learner, data.known, fabric, recorder, part.seed, draws)
        return [record["validation_losses"] for record in recorder.records]


def recommend_counts(plan: SubclustersPlan, measured: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What summary.json holds; see `run_subclusters`. `measured` is what `train_classes` returns."""
    curves: dict[str, dict[int, dict[int, Curve]]] = {}
    for record in measured:
        curves.setdefault(record["class"], {}).setdefault(record["subclusters"], {})[record["seed"]] = record["curve"]
    classes = []
    for name, own in curves.items():
        count, why = recommend(own, plan.gain)
        losses = [
            {"subclusters": subclusters, "seed": seed, "epochs": len(curve), **curve[-1]}
            for subclusters, by_seed in own.items()
            for seed, curve in by_seed.items()
        ]
        classes.append({"class": name, "losses": losses, "recommended": count, "undecided": why})
    counts = [entry["recommended"] for entry in classes]
    option = f'--objective_config.subclusters "[{",".join(map(str, counts))}]"'
    return {"classes": classes, "subclusters": counts, "option": None if None in counts else option}
