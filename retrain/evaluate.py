"""Open-set evaluation of a trained network: fit the rule, set its threshold, then open the test images."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nas_osr.cost.estimate import count_macs
from nas_osr.data.dataset import OpenSetData
from nas_osr.data.protocols import find_unknown
from nas_osr.data.sources import SOURCES, open_source
from nas_osr.errors import UserError
from nas_osr.evaluation.judging import collect_for, collect_outputs, evaluate_rule, warn_of_short_classes
from nas_osr.evaluation.predictions import Predictions, write_predictions
from nas_osr.files.paths import user_path
from nas_osr.outputs import Outputs
from nas_osr.plans import ObjectivePlan, import_plugins
from nas_osr.retrain.embeddings import write_embeddings
from nas_osr.retrain.model import Model
from nas_osr.retrain.model_reading import open_model
from nas_osr.retrain.reopen import images_changed, open_parts, read_run, reopen, trained_fingerprint
from nas_osr.retrain.retrain_request import EvaluateRequest, RetrainRequest
from nas_osr.runs.names import MODEL_FOLDER
from nas_osr.runs.run_folder import RunFolder
from nas_osr.scoring import check_rule, list_rules, make_rule, rule_class
from nas_osr.scoring.base import ScoringRule
from nas_osr.search_spaces.architectures.architecture import Architecture

logger = logging.getLogger(__name__)


Failures = dict[ScoringRule, UserError]  # why a rule cannot be evaluated


@contextmanager
def excused(rule: ScoringRule, failed: Failures | None) -> Iterator[None]:
    """Inside, a UserError of the rule joins `failed` instead of being raised, unless that is None."""
    try:
        yield
    except UserError as error:
        if failed is None:
            raise
        failed[rule] = error


def fit_rules(
    rules: Sequence[ScoringRule], learner: Any, data: OpenSetData, device: Any, failed: Failures | None = None
) -> None:
    """Fit on all known training images (not augmented) and set the thresholds on known validation images.

    `learner` is in eval mode, on `device`; its outputs are computed once for all rules, and only where one learns from
    them; one that needs the network looks for itself. A line says where a rule has too few images of a class. Rules
    that cannot be fitted join `failed`.
    """
    infer, labels = learner.infer, data.train.labels
    for train, learning in collect_for([rule for rule in rules if rule.learns], infer, data.train, device):
        both = None
        if data.protocol.mirrors and not learner.mirrored and any(rule.fits_mirrored for rule in learning):
            flipped = replace(data.train, images=data.train.images.flip(-1))
            outputs = collect_outputs(infer, flipped, device=device)
            both = Outputs.concatenate([train, outputs]), torch.cat([labels, labels])
        for rule in learning:
            with excused(rule, failed):
                rule.fit(*(both if both and rule.fits_mirrored else (train, labels)), learner.objective)
    fitted = [rule for rule in rules if not failed or rule not in failed]
    for validation, setting in collect_for(fitted, infer, data.validation, device):
        for rule in setting:
            with excused(rule, failed):
                rule.set_threshold(validation, data.validation.labels)
                warn_of_short_classes(rule, data.validation.labels, data.protocol.class_names)


def evaluate_test(
    rules: Sequence[ScoringRule], learner: Any, data: OpenSetData, device: Any, failed: Failures | None = None
) -> list[tuple[dict[str, float | None], Predictions]]:
    """Metrics and predictions of each rule on the test images, known and unknown: the only place that opens them.

    Rules that cannot judge them join `failed`, and have no place in the result.
    """
    test = data.test()
    known_names, unknown_names = data.names()
    judged = {}
    for outputs, looking in collect_for(rules, learner.infer, test, device):
        for rule in looking:
            with excused(rule, failed):
                judged[rule] = evaluate_rule(
                    rule, outputs, test.labels, test.source_labels, known_names=known_names, unknown_names=unknown_names
                )
    return [judged[rule] for rule in rules if rule in judged]


def write_evaluation(
    run: RunFolder,
    rule: ScoringRule,
    judged: tuple[dict[str, float | None], Predictions],
    learner: Any,
    network: Architecture | str,
    data: OpenSetData,
    bootstrap: int,
    label: str = "",
    unknown_folder: str | None = None,
) -> dict[str, Any]:
    """Write predictions.csv and metrics.json; returns what metrics.json holds.

    Where outputs are means over mirror images, `macs` are those of one pass, of which they take two.

    Args:
        judged: what `evaluate_test` has found by the rule.
        network: the learner's: an architecture, or the name of a baseline network.
        bootstrap: resamples for the 95 % intervals; 0 leaves them out.
        label: the files are called predictions-LABEL.csv and metrics-LABEL.json where there is one.
        unknown_folder: whose images played the unknown, where they are not the protocol's.
    """
    (metrics, predictions), protocol = judged, data.protocol
    suffix, source = f"-{label}" if label else "", rule.threshold_source()
    if "tau" in source:
        how = "the slope of F1" if source["picker"] == "derivative" else "the quantile, since F1 has no steep slope"
        logger.warning("%s: rule %s: tau %.3g, by %s", run.path, rule.name, source["tau"], how)
    result = {
        "metrics": metrics,
        "intervals": predictions.intervals(repeats=bootstrap) if bootstrap else {},
        "openness_f1_curve": predictions.openness_curve(),
        "test_images": {
            "known": int((predictions.true_label < predictions.num_known).sum()),
            "unknown": int((predictions.true_label == predictions.num_known).sum()),
        },
        "label": label,
        "rule": rule.name,
        "mirrored": learner.mirrored,
        "threshold": rule.threshold,
        "threshold_source": source,
        "protocol": protocol.to_dict(),
        "unknown_folder": unknown_folder,
        "data_fingerprints": {"known": trained_fingerprint(run) or data.fingerprint(), "test": data.test_fingerprint()},
        "network": network if isinstance(network, str) else None,
        "parameters": sum(parameter.numel() for parameter in learner.parameters()),
        "macs": count_macs(learner, protocol.image_shape),
    }
    write_predictions(run.path / f"predictions{suffix}.csv", predictions)
    run.write_json(f"metrics{suffix}.json", result)
    return result


def run_evaluate(request: EvaluateRequest) -> list[dict[str, Any]]:
    """Evaluate one run folder or every part of a retraining from the saved models.

    Of several rules one that cannot be fitted, or cannot judge, is left out, and a line says why.

    Returns:
        What each metrics.json holds: for every part in turn, and there for every rule. Another unknown source or rule,
        and averages over mirror images where the run has none, are written beside it, as metrics-LABEL.json.

    Raises:
        UserError: the folder is not a finished retraining, or data or rule do not fit, or no rule is left.
    """
    import_plugins(request.plugin)
    return [result for run in open_parts(Path(request.run)) for result in evaluate_run(run, request)]


def evaluate_run(run: RunFolder, request: EvaluateRequest) -> list[dict[str, Any]]:
    """Evaluate one run folder, a result for each rule; see `run_evaluate`."""
    if request.mirrored and request.embeddings:
        raise UserError("embeddings are of the images as they are: leave --mirrored out")
    if request.mirrored and request.one_sided:
        raise UserError("mirrored and one_sided exclude each other: leave one of them out")
    kept = read_run(run, request.data_dir)
    if request.unknown is not None and shows_outliers(request.unknown, kept.config):
        raise UserError(f"{run.path}: learned from images of {request.unknown} as outliers; choose another --unknown")
    mirrored = (kept.mirrored or request.mirrored) and not request.one_sided
    otherwise = ("mirrored" if mirrored else "one_sided") if mirrored != kept.mirrored else None
    chosen = choose_rules(kept.objective, request)
    rules, labels = [rule for rule, _ in chosen], dict[ScoringRule, str]()
    for rule, changed in chosen:
        marks = (name_unknown(request.unknown), rule.name if changed else None, otherwise)
        labels[rule] = "-".join(mark for mark in marks if mark)
    if request.mirrored and not kept.protocol.mirrors:
        raise UserError(f"mirrored: a digit's mirror image is no digit; leave it out for {kept.protocol.source}")
    folder = unknown_folder(request.unknown)
    check_not_another(run, list(labels.values()), folder)
    opened = reopen(run, request, request.unknown, any_images=True)
    opened.learner.module.mirrored = mirrored
    parts = (opened.learner, opened.data, opened.fabric.device)
    failed: Failures | None = {} if len(rules) > 1 else None
    if images_changed(run, opened.data):
        model = kept_model(run, differs=otherwise is not None or any(changed for _, changed in chosen))
        opened.learner.load_state_dict(model.learner.state_dict())  # with what the rule has told the objective
        labels = {model.rule: labels[rules[0]]}
        rules = [model.rule]
    else:
        fit_rules(rules, *parts, failed)
        rules = left_over(rules, failed)
    judged = evaluate_test(rules, *parts, failed)
    rules = left_over(rules, failed)
    for error in (failed or {}).values():
        logger.warning("%s: left out: %s", run.path, error)
    about = (opened.learner, opened.network, opened.data, request.bootstrap)
    results = [
        write_evaluation(run, rule, found, *about, labels[rule], folder)
        for rule, found in zip(rules, judged, strict=True)
    ]
    if request.embeddings:
        opened.learner.module.mirrored = False  # of the images as they are
        suffix = f"-{name_unknown(request.unknown)}" if request.unknown else ""
        write_embeddings(run.path / f"embeddings{suffix}.npz", opened, judged[0][1])
    return results


def left_over(rules: Sequence[ScoringRule], failed: Failures | None) -> list[ScoringRule]:
    """The rules that have not failed. Raises UserError, the first one's, when there is none."""
    left = [rule for rule in rules if not failed or rule not in failed]
    if failed and not left:
        raise next(iter(failed.values()))
    return left


def kept_model(run: RunFolder, *, differs: bool) -> Model:
    """A run's model with its rule as it was fitted, for images that cannot fit one like it; says so in a line.

    `differs` is whether something else than its rule is asked for. Raises UserError then, or where there is no model.
    """
    what = f"{run.path}: the known images have changed since it was trained"
    if differs:
        raise UserError(f"{what}: another rule, or mirrored, needs the same ones: give their folder with --data_dir")
    if not (run.path / MODEL_FOLDER).is_dir():
        raise UserError(f"{what}, and it has no model/ that keeps the rule: give the right folder with --data_dir")
    model = open_model(run.path)
    logger.warning("%s: rule %s and its threshold are those of its model", what, model.rule.name)
    return model


def shows_outliers(unknown: str, config: RetrainRequest) -> bool:
    """Whether a run has learned from images of what is to play the unknown: the same source, or a folder inside it."""
    if config.outliers is None or unknown == config.outliers or unknown in SOURCES:
        return unknown == config.outliers
    theirs, others = open_source(config.outliers, config.data_folder), find_unknown(unknown)
    return not (theirs.numbered or others.numbered) and others.folder.resolve().is_relative_to(theirs.folder.resolve())


def name_unknown(unknown: str | None) -> str | None:
    """What results against other unknown images are called: by the source, or the last part of a folder's path."""
    return unknown if unknown is None or unknown in SOURCES else user_path(unknown).resolve().name


def unknown_folder(unknown: str | None) -> str | None:
    """The folder whose images play the unknown, absolute; None where it is no folder."""
    if unknown is None or unknown in SOURCES or not user_path(unknown).is_dir():
        return None
    return str(user_path(unknown).resolve())


def check_not_another(run: RunFolder, labels: Sequence[str], folder: str | None) -> None:
    """UserError where a label stands for another folder, source or rule of the same name already.

    Its results would be lost, or two folders of one name would lie beside each other under two rules.
    """
    own = {f"metrics-{label}.json" for label in labels}
    for file in sorted(run.path.glob("metrics-*.json")):
        if folder is None and file.name not in own:
            continue
        other = run.read_json(file.name).get("unknown_folder", folder)  # earlier versions do not say
        namesakes = folder is not None and other is not None and Path(other).name == Path(folder).name
        if other != folder and (file.name in own or namesakes):
            of = other or "a source or rule of that name"
            raise UserError(f"{file}: of {of}, and not of {folder or 'that'}: rename the folder, or the file")


def choose_rules(objective: ObjectivePlan, request: EvaluateRequest) -> list[tuple[ScoringRule, bool]]:
    """The rules that a request asks for, or else the run's own; with each, whether it differs from that.

    UserError: no such rule, or the objective cannot feed it, or settings for several.
    """
    if request.rule is None:
        check_rule(rule_class(objective.rule, import_plugins=False), objective.kind, objective.side_task)
        settings = request.rule_config or objective.rule_settings
        rule = make_rule(objective.rule, settings, import_plugins=False)
        return [(rule, settings != objective.rule_settings)]
    names = list_rules(request.rule, objective.kind, objective.side_task)
    if request.rule_config and len(names) > 1:
        raise UserError(f"rule_config: settings are for one rule, and {len(names)} are asked for: name one with --rule")
    chosen = []
    for name in names:
        check_rule(rule_class(name), objective.kind, objective.side_task)
        same = name == objective.rule and request.rule_config in ({}, objective.rule_settings)
        chosen.append((make_rule(name, objective.rule_settings if same else request.rule_config), not same))
    return chosen
