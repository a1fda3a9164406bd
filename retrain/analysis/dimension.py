"""The intrinsic dimension of what a network makes of known training images, by scikit-dimension.

GradMix (table 1) gives the mean over classes of the TwoNN estimate (Facco et al. 2017) on the outputs of the projection
head, with the largest tenth of the ratios left out: here `class_mean` of TwoNN on `embedding`.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nas_osr.errors import UserError
from nas_osr.evaluation.judging import collect_outputs
from nas_osr.metrics.open_set import Array
from nas_osr.retrain.analysis.common import (
    check_finite,
    draw_sample,
    open_runs,
    pooled_features,
    reopen_run,
    require,
    write_figures,
)
from nas_osr.retrain.analysis.config import DimensionConfig
from nas_osr.retrain.reopen import Reopened

ESTIMATORS = ("TwoNN", "MLE", "lPCA")
MIN_POINTS = 10  # an estimate from fewer says nothing


def run_dimension(config: DimensionConfig) -> dict[str, dict[str, Any]]:
    """`measure` of each run by its folder's name; written into the run as analysis-dimension.json too.

    Raises:
        UserError: scikit-dimension is not installed, no finished retraining, missing images, or a strange option.
    """
    strange = [name for name in config.estimators if name not in ESTIMATORS]
    if strange or not config.estimators:
        raise UserError(f"estimators must be of {', '.join(ESTIMATORS)}, got {', '.join(strange) or 'none'}")
    require("skdim.id")
    results = {}
    for name, run in open_runs(config.run).items():
        results[name] = measure(reopen_run(run, config), config)
        write_figures(run, "dimension", config, results[name])
    return results


def measure(opened: Reopened, config: DimensionConfig) -> dict[str, Any]:
    """Estimates on a sample of the known training images.

    Returns:
        By space (`pooled`: the encoder's pooled features; `embedding`: the objective's, or its latent means, where it
        has any) and estimator: `all` (every class together), `classes` (by class name) and `class_mean` (over those
        that have an estimate). None where `estimate` gives none.
    """
    train = opened.data.train
    spaces = {"pooled": pooled_features(opened, train)}
    outputs = collect_outputs(opened.learner.infer, train, device=opened.fabric.device)
    embedding = outputs.latent_mean if outputs.embedding is None else outputs.embedding
    if embedding is not None:
        spaces["embedding"] = check_finite(opened, embedding)
    every = draw_sample(len(train), config.limit, config.seed, "dimension")
    classes: dict[str, Tensor] = {}
    for label, name in enumerate(opened.protocol.class_names):
        members = torch.nonzero(train.labels == label).flatten()
        classes[name] = members[draw_sample(len(members), config.limit, config.seed, "dimension", label)]
    figures: dict[str, Any] = {}
    for space, features in spaces.items():
        figures[space] = {}
        for estimator in config.estimators:
            found = {name: estimate(features[index].numpy(), estimator) for name, index in classes.items()}
            defined = [value for value in found.values() if value is not None]
            figures[space][estimator] = {
                "all": estimate(features[every].numpy(), estimator),
                "classes": found,
                "class_mean": float(np.mean(defined)) if defined else None,
            }
    return figures


def estimate(points: Array, estimator: str) -> float | None:
    """The intrinsic dimension of points [n, D], D >= 2, by scikit-dimension's estimator of that name.

    Equal points count once, because ratios of distances are undefined among them. None for fewer than `MIN_POINTS`
    distinct points, or where the estimator finds no finite value.
    """
    skdim = require("skdim.id")
    distinct = np.unique(points.astype(np.float64), axis=0)
    if len(distinct) < MIN_POINTS:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few neighbours in small classes
        value = float(getattr(skdim, estimator)().fit(distinct).dimension_)
    return value if math.isfinite(value) else None
