"""How many subclusters K_c each class of a GMVAE should have (Cao et al., choice of K_c).

Every known class is trained alone with each count. More subclusters lower the covering loss, which says how well the
class's prior covers its latents; where that drop no longer pays at an equal reconstruction loss, the count is enough.
Both losses are measured on known validation images; unknown and test images are never read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any

import torch
from lightning_fabric import Fabric

from nas_osr.data.batches import iterate_batches, to_float
from nas_osr.data.dataset import LabelledImages, OpenSetData, load_data
from nas_osr.errors import UserError
from nas_osr.evaluation.judging import INFERENCE_BATCH
from nas_osr.objectives import resolve_objective_config
from nas_osr.retrain.model import build_learner, resolve_architecture
from nas_osr.retrain.recipes import make_recipe
from nas_osr.retrain.subclusters.subclusters_request import SubclustersRequest
from nas_osr.retrain.train import train
from nas_osr.runs.folder import RunFolder
from nas_osr.runs.progress import ProgressReporter
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.encoder import check_image_shape
from nas_osr.seeds import derive_seed
from nas_osr.training.fabric import describe_fabric, make_fabric

OBJECTIVE = "gmvae"
DRAWS = 16  # of the latents of every validation image: the losses are means over them


def run_subclusters(config: SubclustersRequest, command: list[str]) -> dict[str, Any]:
    """Train every known class alone with each count, and recommend one; complete run folder in `config.out`.

    Args:
        config: the request; open fields are filled from the preset.
        command: the command line, for the provenance.

    Returns:
        out; classes (each with its class name, losses in nats an image for every count, and the recommended count);
        subclusters, the recommended counts in label order; option, the same as an option of `nas-osr retrain`.

    Raises:
        UserError: anything in the request is wrong, missing or in use (nothing is written then); a training diverged.
    """
    config = config.resolved()
    assert config.recipe is not None
    recipe = make_recipe(config.recipe, config.recipe_config)
    architecture = resolve_architecture(config.as_retrain())
    protocol = config.published_protocol(config.split)
    check_image_shape(protocol.image_shape)
    settings = resolve_objective_config(OBJECTIVE, config.objective_config, protocol, "retrain")
    config = replace(
        config,
        architecture=architecture.to_dict(),
        channels=0,
        recipe_config=asdict(recipe),
        objective_config={name: value for name, value in asdict(settings).items() if name != "subclusters"},
    )
    fabric = make_fabric(config.device, config.precision, config.threads)
    data = load_data(protocol, config.data_folder, limit_per_class=config.limit_per_class)
    with RunFolder.create(config.out, overwrite=config.overwrite, resume=config.resume == "auto") as run:
        if run.finished and config.resume == "auto":
            return {"out": config.out, **run.read_json("summary.json")}
        run.provenance(command, config.recorded(), config.seed, data.fingerprint(), **describe_fabric(fabric))
        architecture.save(run.path / "architecture.json")
        measured = measure(config, data, architecture, settings, fabric, run)
        result = summarise(config, protocol.class_names, measured, math.prod(protocol.image_shape))
        run.write_json("summary.json", result)
        run.finish()
    return {"out": config.out, **result}


def measure(
    config: SubclustersRequest,
    data: OpenSetData,
    architecture: Architecture,
    settings: Any,
    fabric: Fabric,
    run: RunFolder,
) -> list[dict[str, Any]]:
    """A record for every class and count, in order: class, subclusters, and the losses on validation images.

    Each is appended to the run's history as soon as it is there; those of a resumed run are taken from it.
    """
    records = run.read_history()
    run.truncate_history(len(records))
    wanted = [(label, count) for label in range(data.protocol.num_known) for count in config.counts]
    for label, count in wanted[len(records) :]:
        name = data.protocol.class_names[label]
        losses = train_class(
            config,
            class_data(data, label),
            architecture,
            replace(settings, subclusters=count),
            fabric,
            title=f"{name}, {count}",
        )
        record = {"class": name, "subclusters": count, "validation": losses}
        run.append_history(record)
        records.append(record)
    return records


def class_data(data: OpenSetData, label: int) -> OpenSetData:
    """The known images of one class alone, which becomes label 0."""
    protocol = replace(
        data.protocol,
        known=data.protocol.known[label : label + 1],
        known_names=data.protocol.known_names[label : label + 1],
        unknown=(),
        unknown_names=(),
    )

    def select(images: LabelledImages) -> LabelledImages:
        own = images.select(images.labels == label)
        return replace(own, labels=torch.zeros_like(own.labels))

    return OpenSetData(protocol, select(data.train), select(data.validation), None, None)


def train_class(
    config: SubclustersRequest, data: OpenSetData, architecture: Architecture, settings: Any, fabric: Fabric, title: str
) -> dict[str, float]:
    """Train a fresh network on the images of one class; its losses on the validation images, see `mean_losses`."""
    assert config.recipe is not None and config.epochs is not None and config.batch_size is not None
    with torch.random.fork_rng(), ProgressReporter(config.epochs, config.quiet, title) as reporter:
        torch.manual_seed(derive_seed(config.seed, "weights"))
        trained = train(
            build_learner(architecture, data.protocol, OBJECTIVE, settings),
            data,
            make_recipe(config.recipe, config.recipe_config),
            fabric,
            Unkept(reporter),
            epochs=config.epochs,
            batch_size=config.batch_size,
            seed=config.seed,
        )
        torch.manual_seed(derive_seed(config.seed, "draws"))
        return mean_losses(trained, data.validation.to(fabric.device), DRAWS)


class Unkept:
    """A `nas_osr.runs.recorder.Recorder` that shows the epochs and keeps nothing: a class's training is not resumed."""

    def __init__(self, reporter: ProgressReporter) -> None:
        self.reporter = reporter
        self.records: list[dict[str, Any]] = []

    def record(self, record: dict[str, Any], timing: dict[str, Any]) -> None:
        """Show one epoch."""
        self.records.append(record)
        self.reporter.epoch(record, timing)

    def wants_checkpoint(self) -> bool:
        """Never."""
        return False

    def save(self, state: dict[str, Any]) -> None:
        """Keep nothing."""

    def restore(self) -> None:
        """There is nothing to resume."""

    def history(self) -> list[dict[str, Any]]:
        """All records so far."""
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


def summarise(
    config: SubclustersRequest, class_names: Sequence[str], measured: Sequence[Mapping[str, Any]], values: int
) -> dict[str, Any]:
    """What summary.json holds; see `run_subclusters`. `values` is the number of pixel values of an image."""
    classes = []
    for label, name in enumerate(class_names):
        own = measured[label * len(config.counts) : (label + 1) * len(config.counts)]
        losses = [{"subclusters": record["subclusters"], **record["validation"]} for record in own]
        chosen = recommend(losses, config.gain, config.tolerance * values)
        classes.append({"class": name, "losses": losses, "recommended": chosen})
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
