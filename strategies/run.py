"""A whole search: check the request, open known data, run the strategy, write the run folder."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from nas_osr.data.augmentation import default_augmentation
from nas_osr.data.dataset import load_data
from nas_osr.data.outliers import fingerprint, load_outliers
from nas_osr.errors import UserError
from nas_osr.objectives import check_outliers, objective_class, resolve_objective_config
from nas_osr.objectives.base import Objective
from nas_osr.outputs import FeatureShapes
from nas_osr.plugins import import_plugin
from nas_osr.ranks.first import check_same, opened_by_first
from nas_osr.ranks.place import check_divided
from nas_osr.runs.folder import RunFolder
from nas_osr.runs.progress import ProgressReporter
from nas_osr.runs.shared import check_equal_options, open_recorder
from nas_osr.scoring import check_rule, make_rule, rule_class
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.architectures.decoding import weights_from_record
from nas_osr.search_spaces.architectures.export import export_architecture
from nas_osr.search_spaces.checks import check_space
from nas_osr.search_spaces.prepare import check_compiler
from nas_osr.strategies.base import SearchResult, Strategy
from nas_osr.strategies.bilevel.pseudo_unknown import choose_pseudo_unknown
from nas_osr.strategies.bilevel.search_cost import check_search_memory, estimate_search
from nas_osr.strategies.bilevel.search_monitors import all_warnings, stop_reason
from nas_osr.strategies.search_request import SearchRequest, check_request
from nas_osr.training.determinism import deterministic_algorithms
from nas_osr.training.fabric import describe_fabric, make_fabric

PICTURES = ["graphml", "gv", "svg"]


def run_search(config: SearchRequest, command: list[str], estimate: bool = True) -> dict[str, Any]:
    """Search as configured and leave a complete run folder in `config.out`.

    Args:
        config: the request; open fields are filled from the preset.
        command: the command line, for the provenance.
        estimate: whether a `dry_run` says what the search would cost, too.

    Returns:
        What was found: out, f1, epoch, branches, seconds, warnings by kind, and stopped, the reason why a stop rule
        ended the search, or None; with `dry_run` what would run.

    Raises:
        UserError: anything in the request is wrong, missing or in use, or does not fit into the device's memory;
            nothing is written then.
    """
    for module in config.plugin:
        import_plugin(module)
    config = check_request(config)
    protocol = config.published_protocol(config.split)
    check_space(config.space(), protocol.image_shape)
    chosen = objective_class(config.objective)
    objective_config = resolve_objective_config(config.objective, config.objective_config, protocol, "search")
    check_outliers(config.objective, objective_config, config.outliers)
    assert config.rule is not None
    check_rule(rule_class(config.rule), chosen)
    make_rule(config.rule, config.rule_config)
    default_augmentation(protocol, config.augmentation)
    assert config.batch_size is not None
    check_divided(config.objective, chosen.divisible, config.batch_size)
    pseudo = choose_pseudo_unknown(protocol, config.pseudo_unknown, config.seed) if config.strategy == "pas" else ()
    config = replace(config, objective_config=asdict(objective_config), pseudo_unknown=list(pseudo))
    if config.dry_run:
        cost = {"estimate": estimate_search(config, protocol)} if estimate else {}
        return {"would_search": config.recorded(), "protocol": protocol.to_dict(), **cost}
    fabric = make_fabric(config.device, config.precision, config.threads, ranks=True)
    if config.compile:
        check_compiler(fabric.device)
    data = load_data(protocol, config.data_folder, limit_per_class=config.limit_per_class)
    outliers = None
    if config.outliers is not None:
        outliers = load_outliers(config.outliers, protocol, config.data_folder, config.limit_per_class)

    kept = [label for label in range(protocol.num_known) if label not in pseudo]
    kept_config = chosen.select_classes(objective_config, kept, protocol.num_known)

    def make_objective(shapes: FeatureShapes, num_classes: int) -> Objective:
        heads = chosen(shapes, protocol.image_shape, num_classes, kept_config)
        if outliers is not None:
            heads.set_outliers(outliers)
        return heads

    def make_search_rule() -> Any:
        return make_rule(config.rule or "", config.rule_config)

    strategy = make_strategy(config, fabric)
    strategy.check(data)
    resume = config.resume == "auto"
    check_equal_options(fabric, config.recorded())
    digest = fingerprint(data, outliers)
    check_same(fabric, "training images", digest)
    with (
        deterministic_algorithms(config.deterministic),
        opened_by_first(
            fabric, lambda: RunFolder.create(config.out, overwrite=config.overwrite, resume=resume)
        ) as folder,
    ):
        done = folder.call(lambda run: read_result(run) if run.finished else None)
        if done is not None:
            return done
        check_search_memory(config, protocol, fabric, make_objective)
        about = describe_fabric(fabric)
        folder.call(lambda run: run.provenance(command, config.recorded(), config.seed, digest, **about))
        assert config.epochs is not None
        reporter = ProgressReporter(config.epochs, quiet=config.quiet)
        with open_recorder(fabric, folder, reporter, resume, config.checkpoint_minutes) as recorder:
            result = strategy.search(config.space(), make_objective, make_search_rule, data, recorder)
        return folder.call(lambda run: write_result(run, result, config))


def write_result(run: RunFolder, result: SearchResult, config: SearchRequest) -> dict[str, Any]:
    """Write the architecture, its pictures and the end of the run; what `read_result` returns."""
    architecture = result.architecture
    architecture.save(run.path / "architecture.json")
    best = next(record for record in result.history if record["epoch"] == architecture.found["epoch"])
    weights = weights_from_record(best, architecture.space)
    export_architecture(architecture, weights, PICTURES, run.path)
    run.finish()
    return read_result(run)


def read_result(run: RunFolder) -> dict[str, Any]:
    """What a finished search found, from its folder."""
    architecture = Architecture.load(run.path / "architecture.json")
    history = run.read_history()
    seconds = [record.get("seconds") for record in run.read_timing()]
    if not {"F1", "epoch"} <= architecture.found.keys() or not all(isinstance(part, int | float) for part in seconds):
        raise UserError(f"{run.path}: architecture.json or timing.jsonl is not what a search leaves")
    return {
        "out": str(run.path),
        "f1": architecture.found["F1"],
        "epoch": architecture.found["epoch"],
        "branches": architecture.to_dict()["branches"],
        "seconds": sum(seconds),
        "warnings": all_warnings(history),
        "stopped": stop_reason(history),
    }


def make_strategy(config: SearchRequest, fabric: Any) -> Strategy:
    """The strategy that a resolved configuration names."""
    from nas_osr.strategies.bilevel.search import Bilevel

    return Bilevel(config, fabric, pseudo_unknown=config.strategy == "pas")
