"""Thresholds with a guarantee, from a user's own images of known classes (split conformal prediction).

With n images that are exchangeable with those to come, and a threshold that is the k-th smallest of their knownness,
k = floor((n + 1) (1 - accept)), a further known image is below it with a probability of at most k / (n + 1): it would
have to be among the k smallest of n + 1 that are all alike. So it is accepted with a probability of at least `accept`
(Vovk et al. 2005; and of at most accept + 1 / (n + 1) where no two are equally known). The probability is over the
calibration images as well as the further one: a single calibration may do somewhat better or worse.

For thresholds per class, images are grouped by the class that they are taken for, as the true one is not there when a
threshold is to be applied, and the same holds inside each group: of the known images that are taken for this class, the
share `accept` is called it rather than unknown (Mondrian conformal prediction). Labels are not needed for it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from nas_osr.data.sources.listing import PassedOver, list_class_folders
from nas_osr.deploy.pictures import PictureFiles
from nas_osr.deploy.predictor import Answers, OpenSetModel, join_answers
from nas_osr.errors import UserError
from nas_osr.files.paths import user_path
from nas_osr.retrain.model import Model


def conformal_threshold(knownness: np.ndarray, accept: float, what: str = "images of known classes") -> float:
    """The threshold that accepts a further image with a probability of at least `accept`; see the module's text.

    Args:
        knownness: [n] of images that are exchangeable with it.
        accept: in (0, 1).
        what: they are, for the message.

    Raises:
        UserError: they are too few.
    """
    rank, needed = conformal_rank(len(knownness), accept), images_needed(accept)
    if rank < 1:
        raise UserError(f"accept {accept} needs {needed} {what} at least, there are {len(knownness)}: add some")
    return float(np.sort(knownness)[rank - 1])


def conformal_rank(count: int, accept: float) -> int:
    """floor((count + 1) (1 - accept)), of the number that is written, such as 0.95; UserError unless it is a share."""
    if isinstance(accept, bool) or not isinstance(accept, int | float) or not 0 < accept < 1:
        raise UserError(f"accept must lie strictly between 0 and 1, got {accept!r}")
    return math.floor((count + 1) * (1 - Fraction(str(accept))))


def images_needed(accept: float) -> int:
    """The least number of images with which `accept` can be promised. UserError as by `conformal_rank`."""
    conformal_rank(0, accept)
    return math.ceil(1 / (1 - Fraction(str(accept)))) - 1


def calibrate_model(model: OpenSetModel, answers: Answers, accept: float, per_class: bool = False) -> Model:
    """The same model with the threshold, or thresholds, that known images set; `about` says how.

    Args:
        answers: of images of known classes.
        accept: the share of known images to accept, in (0, 1).
        per_class: whether each predicted class has a threshold of its own.

    Raises:
        UserError: there are too few images, of a class or at all.
    """
    whole = model.model
    about: dict[str, Any] = {
        "accept": accept,
        "per_class": per_class,
        "images": len(answers.knownness),
        "thresholds_before": model.thresholds.tolist(),
    }
    if per_class:
        groups = [answers.knownness[answers.nearest == label] for label in range(len(model.classes_))]
        counts = dict(zip(model.classes_.tolist(), map(len, groups), strict=True))
        few = [f"{name} {count}" for name, count in counts.items() if count < images_needed(accept)]
        if few:
            raise UserError(
                f"accept {accept} needs {images_needed(accept)} images at least that are taken for each class, and "
                f"there are fewer for {', '.join(few)}: add some, or leave --per_class out"
            )
        thresholds = tuple(conformal_threshold(group, accept) for group in groups)
        about["images_by_class"] = counts
        return replace(whole, class_thresholds=thresholds, about={**whole.about, "calibration": about})
    rule = copy.copy(whole.rule)
    rule.threshold = conformal_threshold(answers.knownness, accept)
    return replace(whole, rule=rule, class_thresholds=None, about={**whole.about, "calibration": about})


def ask_known(model: OpenSetModel, paths: Sequence[str | Path]) -> tuple[Answers, PassedOver]:
    """What the model says of images of known classes, and what else the folders had.

    A folder that has folders is taken for one of classes: each has to be known.

    Raises:
        UserError: a folder is of no known class, an image cannot be read, or there is none.
    """
    for folder in filter(Path.is_dir, map(user_path, paths)):
        check_class_folders(model, folder)
    files, parts = PictureFiles(paths), []
    for batch, answers in model.ask_files(files):
        for _, error in batch:
            if error is not None:
                raise error
        assert answers is not None
        parts.append(answers)
    if not parts:
        raise UserError(f"{', '.join(map(str, paths))}: no images there")
    return join_answers(parts), files.passed_over


def check_class_folders(model: OpenSetModel, folder: Path) -> None:
    """UserError unless the folders in a folder, if there are any, have the names of known classes."""
    known = set(model.classes_.tolist()) | {part for name in model.classes_.tolist() for part in name.split("+")}
    for name in list_class_folders(folder):
        if name not in known:
            raise UserError(
                f"{folder / name}: {name} is no known class of the model, and only images of known classes set a "
                f"threshold: move it away; known are {', '.join(model.classes_.tolist())}"
            )
