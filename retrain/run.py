"""A whole retraining: every split and seed into its own complete run folder, and a summary over them."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from nas_osr.configuration import parse_range
from nas_osr.data.dataset import OpenSetData, load_data
from nas_osr.data.outliers import fingerprint, load_outliers, outlier_classes
from nas_osr.data.protocols import Protocol
from nas_osr.errors import UserError
from nas_osr.metrics.resampling import mean_and_spread
from nas_osr.objectives import check_outliers, objective_class, resolve_objective_config
from nas_osr.plugins import import_plugin
from nas_osr.ranks.first import FirstRank, check_same, opened_by_first
from nas_osr.ranks.place import check_divided
from nas_osr.retrain.comparison import check_result
from nas_osr.retrain.evaluate import describe, evaluate_test, fit_rules, write_evaluation
from nas_osr.retrain.model import build_learner, resolve_architecture
from nas_osr.retrain.networks import check_network
from nas_osr.retrain.recipes import make_recipe
from nas_osr.retrain.retrain_cost import check_retrain_memory, estimate_retrain
from nas_osr.retrain.retrain_request import RetrainRequest
from nas_osr.retrain.train import train
from nas_osr.runs.folder import RunFolder
from nas_osr.runs.progress import ProgressReporter
from nas_osr.runs.shared import check_equal_options, open_recorder
from nas_osr.scoring import check_rule, make_rule, rule_class
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.encoder import check_image_shape
from nas_osr.search_spaces.prepare import check_compiler, prepare_encoder
from nas_osr.seeds import derive_seed
from nas_osr.training.determinism import deterministic_algorithms
from nas_osr.training.fabric import describe_fabric, make_fabric


@dataclass(frozen=True)
class Part:
    """One split and seed of a retraining, checked and ready to run."""

    folder: str
    seed: int
    protocol: Protocol
    objective_config: Any
    config: RetrainRequest  # of this part alone: what its config.yaml holds


def run_retrain(config: RetrainRequest, command: list[str], estimate: bool = True) -> dict[str, Any]:
    """Retrain as configured and leave complete run folders and summary.json in `config.out`.

    Args:
        config: the request; open fields are filled from the preset.
        command: the command line, for the provenance.
        estimate: whether a `dry_run` says what the retraining would cost, too.

    Returns:
        out, metrics (mean, std and n of each over the parts), parts (metrics of each); with `dry_run` what would run.

    Raises:
        UserError: anything in the request is wrong, missing or in use, or does not fit into the device's memory;
            nothing is written then.
    """
    for module in config.plugin:
        import_plugin(module)
    config = config.resolved()
    config = replace(config, rule=config.rule or objective_class(config.objective).default_rule)
    assert config.rule is not None and config.recipe is not None and config.epochs is not None
    check_rule(rule_class(config.rule), objective_class(config.objective))
    make_rule(config.rule, config.rule_config)
    recipe = make_recipe(config.recipe, config.recipe_config)
    config = replace(config, recipe_config=asdict(recipe))
    architecture = config.network or resolve_architecture(config)
    value = architecture.to_dict() if isinstance(architecture, Architecture) else None
    config = replace(config, architecture=value, channels=0, stem=None)
    parts = list_parts(config)
    if config.dry_run:
        protocols = [part.protocol for part in parts]
        cost = {"estimate": estimate_retrain(parts[0].config, protocols)} if estimate else {}
        return {"would_retrain": [part.config.recorded() for part in parts], **cost}
    fabric = make_fabric(config.device, config.precision, config.threads, ranks=True)
    if config.compile:
        check_compiler(fabric.device)
    resume = config.resume == "auto"
    # what can be wrong with the first part shows before anything is written
    with torch.random.fork_rng():
        build_learner(architecture, parts[0].protocol, config.objective, parts[0].objective_config)
    opened = {parts[0].folder: load_part_data(parts[0])}
    check_equal_options(fabric, config.recorded())
    with (
        deterministic_algorithms(config.deterministic),
        opened_by_first(
            fabric, lambda: RunFolder.create(config.out, overwrite=config.overwrite, resume=resume)
        ) as outer,
    ):
        check_retrain_memory(parts[0].config, [part.protocol for part in parts], fabric)
        outer.call(lambda folder: begin(folder, config, command))
        results = [
            run_part(part, opened.pop(part.folder, None), architecture, fabric, outer, command) for part in parts
        ]
        summary = {
            "out": config.out,
            "metrics": mean_and_spread([result["metrics"] for result in results]),
            "parts": {part.folder: result["metrics"] for part, result in zip(parts, results, strict=True)},
        }
        outer.call(lambda folder: end(folder, summary))
    return summary


def begin(outer: RunFolder, config: RetrainRequest, command: list[str]) -> None:
    """Begin the retraining in its folder, or go on with a finished one that is asked for more splits. UserError."""
    if not (outer.finished and config.resume == "auto"):
        outer.provenance(command, config.recorded(), None, None)
        return
    before = parse_range("splits", outer.read_config().get("splits"))
    missing = set(before) - set(parse_range("splits", config.splits))
    if missing:
        raise UserError(f"{outer.path}: holds split {min(missing)} as well: ask for it and for more, or --overwrite")
    outer.extend(config.recorded(), ("splits",))


def check_there(outer: RunFolder) -> None:
    """UserError when the folder of a retraining has gone."""
    outer.read_provenance()


def read_part_result(run: RunFolder) -> dict[str, Any] | None:
    """What a finished part's metrics.json holds; None when the part is not finished. UserError when it is broken."""
    return check_result(run.read_json("metrics.json"), run.path / "metrics.json") if run.finished else None


def end(outer: RunFolder, summary: dict[str, Any]) -> None:
    """Write summary.json and the end of the retraining."""
    outer.write_json("summary.json", {name: value for name, value in summary.items() if name != "out"})
    if not outer.finished:
        outer.finish()


def list_parts(config: RetrainRequest) -> list[Part]:
    """Every split and seed of a resolved configuration. Raises UserError."""
    splits, seeds = parse_range("splits", config.splits), parse_range("seeds", config.seeds)
    parts = []
    for split in splits:
        protocol = config.protocol_of(split)
        check_image_shape(protocol.image_shape)
        if config.network is not None:
            check_network(config.network, protocol.image_shape)
        objective_config = resolve_objective_config(config.objective, config.objective_config, protocol, "retrain")
        check_outliers(config.objective, objective_config, config.outliers)
        assert config.batch_size is not None
        check_divided(config.objective, objective_class(config.objective).divisible, config.batch_size)
        if config.outliers is not None:
            outlier_classes(config.outliers, config.published_protocol(split), config.data_folder)
        for seed in seeds:
            folder = f"split-{split}" if len(seeds) == 1 else f"split-{split}-seed-{seed}"
            own = replace(config, splits=str(split), seeds=str(seed), objective_config=asdict(objective_config))
            parts.append(Part(folder, seed, protocol, objective_config, own))
    return parts


def load_part_data(part: Part) -> tuple[OpenSetData, Tensor | None]:
    """The known images of a part, and the outliers [n, C, H, W] where it names a source. Raises UserError."""
    config = part.config
    folder, limit = config.data_folder, config.limit_per_class
    data = load_data(part.protocol, folder, limit_per_class=limit)
    if config.outliers is None:
        return data, None
    # of the whole protocol: a rehearsal must not learn from its truly unknown classes either
    whole = config.published_protocol(int(config.splits))
    return data, load_outliers(config.outliers, whole, folder, limit)


def run_part(
    part: Part,
    opened: tuple[OpenSetData, Tensor | None] | None,
    architecture: Architecture | str,
    fabric: Fabric,
    outer: FirstRank[RunFolder],
    command: list[str],
) -> dict[str, Any]:
    """Train and evaluate one part in its folder; what its metrics.json holds. A finished part is only read.

    `opened` are the part's images (see `load_part_data`) where they have been opened already.
    """
    config = part.config
    assert config.rule is not None and config.epochs is not None and config.batch_size is not None
    assert config.recipe is not None
    resume = config.resume == "auto"
    outer.call(check_there)  # a folder that was removed meanwhile is not made again
    with opened_by_first(fabric, lambda: RunFolder.create(outer.value.path / part.folder, resume=resume)) as folder:
        done = folder.call(read_part_result)
        if done is not None:
            return done
        data, outliers = opened or load_part_data(part)
        check_divided(config.objective, True, min(config.batch_size, len(data.train)))
        digest = fingerprint(data, outliers)
        check_same(fabric, "training images", digest)
        about = describe_fabric(fabric)
        folder.call(lambda run: run.provenance(command, config.recorded(), part.seed, digest, **about))
        if isinstance(architecture, Architecture):
            found = architecture
            folder.call(lambda run: found.save(run.path / "architecture.json"))
        started = time.perf_counter()
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(part.seed, "weights"))
            learner = build_learner(architecture, part.protocol, config.objective, part.objective_config)
            prepare_encoder(learner.encoder, checkpointing=config.checkpointing, compiled=config.compile)
            if outliers is not None:
                learner.objective.set_outliers(outliers)
            reporter = ProgressReporter(config.epochs, config.quiet, part.folder)
            with open_recorder(fabric, folder, reporter, resume, config.checkpoint_minutes) as recorder:
                trained = train(
                    learner,
                    data,
                    make_recipe(config.recipe, config.recipe_config),
                    fabric,
                    recorder,
                    epochs=config.epochs,
                    batch_size=config.batch_size,
                    seed=part.seed,
                )
        trained.eval()
        return folder.call(lambda run: evaluate_part(run, part, trained, data, fabric.device, started))


def evaluate_part(
    run: RunFolder, part: Part, trained: Any, data: OpenSetData, device: torch.device, started: float
) -> dict[str, Any]:
    """Evaluate a part's network, which is in eval mode, and write the end of its run; what metrics.json holds.

    `started` is when its training began, by `time.perf_counter`.
    """
    config = part.config
    assert config.rule is not None
    rule = make_rule(config.rule, config.rule_config)
    fit_rules([rule], trained, data, device)
    [(metrics, predictions)] = evaluate_test([rule], trained, data, device)
    about = describe(data, rule, trained.module, network=config.network)
    result = write_evaluation(run, predictions, metrics, about, config.bootstrap)
    run.append_timing({"evaluated": True, "seconds_in_all": time.perf_counter() - started})
    run.finish()
    return result
