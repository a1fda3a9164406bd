"""Open-set evaluation of a trained network: fit the rule, set its threshold, then open the test images."""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from nas_osr.architecture import Architecture
from nas_osr.configuration import config_data_dir, config_protocol
from nas_osr.data.dataset import OpenSetData, load_data
from nas_osr.data.protocols import Protocol, with_unknown
from nas_osr.errors import UserError
from nas_osr.evaluation import collect_outputs, evaluate_rule
from nas_osr.objectives import objective_class, resolve_objective_config
from nas_osr.objectives.base import Objective
from nas_osr.plugins import import_plugin
from nas_osr.predictions import Predictions, write_predictions
from nas_osr.runs import RunFolder
from nas_osr.scoring import check_rule, make_rule, rule_class
from nas_osr.scoring.base import ScoringRule
from nas_osr.training import Learner, make_fabric
from retrain.config import EvaluateConfig, RetrainConfig
from retrain.model import build_learner


def fit_rule(rule: ScoringRule, learner: Any, data: OpenSetData, device: Any) -> None:
    """Fit on all known training images (not augmented) and set the threshold on known validation images.

    `learner` is in eval mode, on `device`.
    """
    infer = partial(collect_outputs, learner.infer, device=device)
    rule.fit(infer(data.train), data.train.labels, learner.objective)
    rule.set_threshold(infer(data.validation), data.validation.labels)


def evaluate_test(
    rule: ScoringRule, learner: Any, data: OpenSetData, device: Any
) -> tuple[dict[str, float | None], Predictions]:
    """Metrics and predictions on the test images, known and unknown: the only place where they are opened."""
    test = data.test()
    outputs = collect_outputs(learner.infer, test, device=device)
    protocol = data.protocol
    return evaluate_rule(
        rule,
        outputs,
        test.labels,
        test.source_labels,
        known_names={
            class_id: name
            for group, names in zip(protocol.known, protocol.known_names, strict=True)
            for class_id, name in zip(group, names, strict=True)
        },
        unknown_names=dict(zip(protocol.unknown, protocol.unknown_names, strict=True)),
    )


def write_evaluation(
    run: RunFolder, predictions: Predictions, metrics: dict[str, float | None], about: dict[str, Any], bootstrap: int
) -> dict[str, Any]:
    """Write predictions.csv and metrics.json; returns what metrics.json holds.

    Args:
        about: rule, protocol and parameters, as plain values.
        bootstrap: resamples for the 95 % intervals; 0 leaves them out.
    """
    suffix = f"-{about['label']}" if about.get("label") else ""
    result = {
        "metrics": metrics,
        "intervals": predictions.intervals(repeats=bootstrap) if bootstrap else {},
        "openness_f1_curve": predictions.openness_curve(),
        "test_images": {
            "known": int((predictions.true_label < predictions.num_known).sum()),
            "unknown": int((predictions.true_label == predictions.num_known).sum()),
        },
        **about,
    }
    write_predictions(run.path / f"predictions{suffix}.csv", predictions)
    run.write_json(f"metrics{suffix}.json", result)
    return result


def describe(protocol: Protocol, rule: ScoringRule, learner: Any, label: str = "") -> dict[str, Any]:
    """What a result says of where it comes from."""
    return {
        "label": label,
        "rule": rule.name,
        "threshold": rule.threshold,
        "protocol": protocol.to_dict(),
        "parameters": sum(parameter.numel() for parameter in learner.parameters()),
    }


def run_evaluate(request: EvaluateConfig) -> list[dict[str, Any]]:
    """Evaluate one run folder or every part of a retraining from the saved models.

    Returns:
        What each metrics.json holds. Another unknown source or rule is written beside it, as metrics-LABEL.json.

    Raises:
        UserError: the folder is not a finished retraining, or data or rule do not fit.
    """
    for module in request.plugin:
        import_plugin(module)
    folder = Path(request.run)
    parts = sorted(part for part in folder.glob("split-*") if part.is_dir())
    return [evaluate_run(RunFolder.open(part), request) for part in (parts or [folder])]


def evaluate_run(run: RunFolder, request: EvaluateConfig) -> dict[str, Any]:
    """Evaluate one run folder; see `run_evaluate`."""
    config = read_retrain_config(run)
    if request.data_dir is not None:
        config.data_dir = request.data_dir
    objective = objective_class(config.objective, import_plugins=False)
    protocol = config_protocol(config, int(config.splits))
    objective_config = resolve_objective_config(config.objective, config.objective_config, protocol, "retrain")
    if request.unknown is not None:
        protocol = with_unknown(protocol, request.unknown)
    rule, changed = choose_rule(config, request, objective)
    label = "-".join(part for part in (request.unknown, rule.name if changed else None) if part)

    architecture = Architecture.load(run.path / "architecture.json")
    fabric = make_fabric(request.device, request.precision, request.threads)
    learner = load_learner(run, architecture, protocol, config, objective_config)
    wrapped: Any = fabric.setup_module(learner)
    wrapped.mark_forward_method("infer")
    wrapped.eval()
    data = load_data(protocol, config_data_dir(config), limit_per_class=config.limit_per_class)
    fit_rule(rule, wrapped, data, fabric.device)
    metrics, predictions = evaluate_test(rule, wrapped, data, fabric.device)
    about = describe(protocol, rule, learner, label)
    return write_evaluation(run, predictions, metrics, about, request.bootstrap)


def choose_rule(config: RetrainConfig, request: EvaluateConfig, objective: type[Objective]) -> tuple[ScoringRule, bool]:
    """The rule that a request asks for, or else the run's own, and whether it differs from that. Raises UserError."""
    assert config.rule is not None
    if request.rule is None:
        check_rule(rule_class(config.rule, import_plugins=False), objective)
        settings = request.rule_config or config.rule_config
        rule = make_rule(config.rule, settings, import_plugins=False)
        return rule, settings != config.rule_config
    check_rule(rule_class(request.rule), objective)
    same = request.rule == config.rule and request.rule_config in ({}, config.rule_config)
    return make_rule(request.rule, config.rule_config if same else request.rule_config), not same


def read_retrain_config(run: RunFolder) -> RetrainConfig:
    """The configuration that a retraining left in its folder. Raises UserError when it is not one."""
    values = run.read_config()
    names = {item.name for item in fields(RetrainConfig)}
    unknown = sorted(set(values) - names)
    if unknown or "architecture" not in values:
        raise UserError(f"{run.path / 'config.yaml'}: not the configuration of a retraining: evaluate needs one")
    return RetrainConfig(**values)


def load_learner(
    run: RunFolder, architecture: Architecture, protocol: Protocol, config: RetrainConfig, objective_config: Any
) -> Learner:
    """The trained network of a run folder, on the CPU. Raises UserError when there is none or it does not fit."""
    learner = build_learner(architecture, protocol, config.objective, objective_config)
    state = run.load_checkpoint()
    if state is None:
        raise UserError(f"{run.path}: no checkpoint.pt: the run has not trained anything yet")
    try:
        learner.load_state_dict(state["learner"])
    except (KeyError, RuntimeError) as error:
        raise UserError(
            f"{run.path}: checkpoint.pt does not fit architecture.json: {str(error).splitlines()[0]}"
        ) from error
    return learner
