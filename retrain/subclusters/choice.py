"""How many subclusters K_c each class of a GMVAE should have (Cao et al., choice of K_c).

Every known class is trained alone with each count. More subclusters lower the covering loss, which says how well the
class's prior covers its latents; where that drop no longer pays at an equal reconstruction loss, the count is enough.
Both losses are measured on known validation images; unknown and test images are never read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import pairwise
from typing import Any

import torch
from lightning_fabric import Fabric

from nas_osr.cost.whole_run import check_fits
from nas_osr.data.batches import iterate_batches, to_float
from nas_osr.data.dataset import LabelledImages, OpenSetData
from nas_osr.data.protocols import Protocol
from nas_osr.errors import UserError
from nas_osr.evaluation.judging import INFERENCE_BATCH
from nas_osr.plans import OutputPlan
from nas_osr.retrain.build import save_architecture
from nas_osr.retrain.retrain_cost import retrain_cost
from nas_osr.retrain.retrain_plan import Part, plan_retrain
from nas_osr.retrain.subclusters.subclusters_request import SubclustersRequest
from nas_osr.runs.progress import ProgressReporter
from nas_osr.runs.run_folder import RunFolder
from nas_osr.seeds import derive_seed
from nas_osr.training.determinism import deterministic_algorithms

DRAWS = 16  # of the latents of every validation image: the losses are means over them


@dataclass(frozen=True)
class SubclustersPlan:
    """A choice of subclusters."""

    parts: tuple[Part, ...]
    "the trainings: every class with each count in turn, the counts ascending."
    load_known: Callable[[], OpenSetData]
    "reads the images of all known classes, once."
    gain: float
    "see `recommend`."
    tolerance: float
    "see `recommend`; in nats a pixel value."
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
        out; classes (each with its class name, losses in nats an image for every count, and the recommended count);
        subclusters, the recommended counts in label order; option, the same as an option of `nas-osr retrain`. With
        `dry_run` what would run, and an estimate.

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
    """A record for every class and count, in order: class, subclusters, and the losses on validation images.

    Each is appended to the run's history as soon as it is there; those of a resumed run are taken from it.
    """
    records = run.read_history()
    run.truncate_history(len(records))
    for part in plan.parts[len(records) :]:
        record = {**part.recorded, "validation": train_class(part, fabric, plan.output.quiet)}
        run.append_history(record)
        records.append(record)
    return records


def train_class(part: Part, fabric: Fabric, quiet: bool) -> dict[str, float]:
    """Train a fresh network on the images of one class; its losses on the validation images, see `mean_losses`."""
    data, epochs = part.data.load(), part.training.schedule.epochs
    with torch.random.fork_rng(), ProgressReporter(epochs, quiet, part.folder) as reporter:
        torch.manual_seed(derive_seed(part.seed, "weights"))
        learner = part.training.build(data.outliers)
        trained = part.training.train(learner, data.known, fabric, Unkept(reporter), part.seed)
        torch.manual_seed(derive_seed(part.seed, "draws"))
        return mean_losses(trained, data.known.validation.to(fabric.device), DRAWS)


@dataclass
class Unkept:
    """A `nas_osr.runs.recorder.Recorder` that shows the epochs and keeps nothing: a class's training is not resumed."""

    reporter: ProgressReporter
    records: list[dict[str, Any]] = field(default_factory=list)

    def record(self, record: dict[str, Any], timing: dict[str, Any]) -> None:
        self.records.append(record)
        self.reporter.epoch(record, timing)

    def wants_checkpoint(self) -> bool:
        return False

    def save(self, state: dict[str, Any]) -> None:
        """Keep nothing."""

    def restore(self) -> None:
        return None

    def history(self) -> list[dict[str, Any]]:
        return self.records


def mean_losses(learner: Any, data: LabelledImages, draws: int) -> dict[str, float]:
    """Each loss term in eval mode, as the mean over the images and `draws` passes with fresh latents, undivided.

    Args:
        learner: a `Learner` set up by Fabric.
        data: at least one image, on the learner's device.
        draws: passes over the images, at least 1.

    Raises:
        UserError: a term is not finite.
    """
    learner.eval()
    sums: dict[str, float] = {}
    with torch.no_grad():
        for _ in range(draws):
            for images, labels in iterate_batches(data, INFERENCE_BATCH):
                for name, value in learner(to_float(images), labels).items():
                    sums[name] = sums.get(name, 0.0) + float(value) * len(labels) / (len(data) * draws)
    bad = [name for name, value in sums.items() if not math.isfinite(value)]
    if bad:
        raise UserError(f"training diverged: validation loss {bad[0]!r} is {sums[bad[0]]}; lower the learning rate")
    return sums


def recommend_counts(plan: SubclustersPlan, measured: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What summary.json holds; see `run_subclusters`. `measured` is what `train_classes` returns."""
    tolerance = plan.tolerance * math.prod(plan.parts[0].training.protocol.image_shape)
    of_class: dict[str, list[dict[str, Any]]] = {}
    for record in measured:
        losses = {"subclusters": record["subclusters"], **record["validation"]}
        of_class.setdefault(record["class"], []).append(losses)
    classes = [
        {"class": name, "losses": losses, "recommended": recommend(losses, plan.gain, tolerance)}
        for name, losses in of_class.items()
    ]
    counts = [entry["recommended"] for entry in classes]
    return {
        "classes": classes,
        "subclusters": counts,
        "option": f'--objective_config.subclusters "[{",".join(map(str, counts))}]"',
    }


def recommend(losses: Sequence[Mapping[str, Any]], gain: float, tolerance: float) -> int:
    """The first count from which the next one does not pay; the largest where every step pays.

    A step pays when it lowers the covering loss C, by at least the share `gain` of its size, C - C_next >= gain |C|,
    and leaves the reconstruction loss R equal or better, R_next - R <= tolerance. Where R falls by more than the
    tolerance the covering losses are not of equal reconstructions (a collapsed prior covers its latents at no cost, and
    they say nothing): both losses are nats, and their sum is what must fall so far.

    Args:
        losses: by ascending count: `subclusters`, `covering` and `reconstruction`, the losses in nats an image.
        gain: a share in (0, 1).
        tolerance: nats an image, at least 0.
    """
    for here, following in pairwise(losses):
        drop = here["covering"] - following["covering"]
        worse = following["reconstruction"] - here["reconstruction"]
        if worse < -tolerance:
            drop -= worse
        if drop <= 0 or drop < gain * abs(here["covering"]) or worse > tolerance:
            return here["subclusters"]
    return losses[-1]["subclusters"]
