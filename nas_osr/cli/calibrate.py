"""`nas-osr calibrate`: the threshold of a model, from a user's own images of known classes."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from nas_osr.cli.model_options import ModelOptions
from nas_osr.cli.show import show_json, show_table
from nas_osr.configuration import UserPath
from nas_osr.errors import UserError
from nas_osr.option_docs import Range


@dataclass
class CalibrateRequest(ModelOptions):
    """Set the threshold of a model on your own images of known classes, with a guarantee.

    A known image to come is accepted with a probability of at least --accept, if it is drawn as these images were: they
    must be none that the model was trained on, and show known classes only.
    """

    model: UserPath
    "a model folder, or the folder of a retraining of one part; its threshold is replaced unless --out is given."
    images: list[str]
    "folders of images, or of folders that are named after known classes; or image files."
    accept: Annotated[float, Range(0, 1, above=True, below=True)] = 0.95
    "the share of known images to accept, between 0 and 1; 0.95 needs 19 images at least, 0.99 needs 99."
    per_class: bool = False
    "a threshold for each class that images are taken for, so that the share holds for each; needs as many of each."
    out: UserPath | None = None
    "a new model folder to write, instead of changing the model."
    json: bool = False
    "print the result as one JSON object."


def calibrate(request: CalibrateRequest, command: list[str]) -> None:
    """Calibrate as asked and print the thresholds."""
    from nas_osr.deploy.calibration import ask_known, calibrate_model, images_needed
    from nas_osr.deploy.predictor import OpenSetModel, load
    from nas_osr.retrain.model import find_model, write_model

    images_needed(request.accept)
    if not request.images:
        raise UserError("calibrate: name a folder of images of known classes")
    before = load(request.model, device=request.device, batch_size=request.batch_size, plugins=request.plugin)
    folder = find_model(request.model) if request.out is None else Path(request.out)
    if request.out is not None and folder.exists():
        raise UserError(f"{folder}: is there already: choose another --out")
    answers, passed_over = ask_known(before, request.images)
    calibrated = calibrate_model(before, answers, request.accept, request.per_class)
    after = OpenSetModel(calibrated, request.device, request.batch_size)
    write_model(folder, calibrated)
    if (folder / "model.onnx").exists():
        print(f"{folder}/model.onnx still has the former threshold: export it again", file=sys.stderr)
    margins = answers.knownness - after.thresholds[answers.nearest]
    result = {
        "model": str(folder),
        **calibrated.about["calibration"],
        "thresholds": dict(zip(after.classes_.tolist(), after.thresholds.tolist(), strict=True)),
        "accepted_before": float((answers.margin >= 0).mean()),
        "accepted": float((margins >= 0).mean()),
    }
    if request.json:
        show_json(result)
        return
    if request.per_class:
        numbers = ([f"{value:.6g}" for value in model.thresholds] for model in (before, after))
        columns = zip(after.classes_.tolist(), *numbers, strict=True)
        show_table([["class", "threshold before", "threshold"], *map(list, columns)])
    else:
        print(f"threshold {after.thresholds[0]:.6g}, before {before.thresholds[0]:.6g}")
    other = f"; passed over: {passed_over}" if passed_over else ""
    print(
        f"accepts {result['accepted']:.1%} of these {result['images']} images, before {result['accepted_before']:.1%}"
        f"{other}; at least {request.accept:.4g} of further ones that are drawn alike\neverything in {folder}"
    )
