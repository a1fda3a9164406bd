"""Model folders of retrainings that an earlier version left without one."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from nas_osr.errors import UserError
from nas_osr.files.paths import user_path
from nas_osr.plans import import_plugins
from nas_osr.retrain.evaluate import fit_rules
from nas_osr.retrain.evaluated import check_result
from nas_osr.retrain.model import (
    JSON_FILE,
    WEIGHTS_FILE,
    Model,
    about_model,
    inputs_of,
    write_model,
)
from nas_osr.retrain.model_reading import as_number, open_model
from nas_osr.retrain.reopen import load_learner, open_parts, read_run, reopen
from nas_osr.retrain.retrain_request import ReopenOptions
from nas_osr.runs.names import MODEL_FOLDER
from nas_osr.runs.run_folder import RunFolder
from nas_osr.scoring import make_rule

logger = logging.getLogger(__name__)


def export_models(path: str | Path, out: Path | None, options: ReopenOptions) -> list[Path]:
    """Write the model folders that `open_models` finds, and return the files. Raises UserError as it does."""
    written = []
    for folder, (model, _) in open_models(path, out, options).items():
        write_model(folder, model)
        written += [folder / WEIGHTS_FILE, folder / JSON_FILE]
    return written


def open_models(
    path: str | Path, out: Path | None, options: ReopenOptions
) -> dict[Path, tuple[Model, RunFolder | None]]:
    """The model of every part of a retraining with its run, or that of a model folder; by the folders to write into.

    Args:
        path: a retraining, a part of one, or a model folder.
        out: where they go, PART below it where there are several; None: `model` in the part's own folder.
        options: images and device, for a rule that has to be fitted; plug-ins.

    Raises:
        UserError: there is no finished retraining, or its images have changed.
    """
    import_plugins(options.plugin)
    path = user_path(path)
    if (path / JSON_FILE).exists():
        return {out or path: (open_model(path), None)}
    parts = open_parts(path)
    places = [run.path / MODEL_FOLDER if out is None else out / run.path.name for run in parts]
    if out is not None and len(parts) == 1:
        places = [out]
    return {place: (convert_run(run, options), run) for place, run in zip(places, parts, strict=True)}


def convert_run(run: RunFolder, options: ReopenOptions) -> Model:
    """The model of a finished part: its own where it has one; else of its checkpoint, with the rule fitted again.

    A rule that learns nothing takes its threshold from metrics.json; any other needs the run's training images. A line
    says which.

    Raises:
        UserError: the part is not finished, or the images are not there or have changed.
    """
    if (run.path / MODEL_FOLDER / JSON_FILE).exists():
        return open_model(run.path)
    if not run.finished:
        raise UserError(f"{run.path}: not finished: go on with {run.resume_command()}")
    kept = read_run(run, options.data_dir)
    evaluation = check_result(run.read_json("metrics.json"), run.path / "metrics.json")
    rule = make_rule(kept.objective.rule, kept.objective.rule_settings, import_plugins=False)
    learner: Any
    if rule.learns or rule.learned:
        logger.warning("%s: rule %s is fitted on the run's training images", run.path, rule.name)
        opened = reopen(run, options)
        fit_rules([rule], opened.learner, opened.data, opened.fabric.device)
        learner, about = opened.learner.module, about_model(evaluation, opened.data)
    else:
        logger.warning("%s: rule %s needs no images: its threshold is in metrics.json", run.path, rule.name)
        rule.threshold = as_number(evaluation.get("threshold"), f"{run.path}/metrics.json: threshold")
        learner, about = load_learner(kept), about_model(evaluation)
    return Model(kept.network, kept.objective, inputs_of(kept.protocol), learner, rule, None, about)
