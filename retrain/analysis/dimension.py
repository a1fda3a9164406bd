"""The intrinsic dimension of what a network makes of known training images, by scikit-dimension.

GradMix (table 1) gives the mean over classes of the TwoNN estimate (Facco et al. 2017) on the outputs of the projection
head, with the largest tenth of the ratios left out: here `class_mean` of TwoNN on `embedding`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from nas_osr.errors import UserError
from nas_osr.option_docs import POSITIVE, SEEDS, Choices
from nas_osr.retrain.analysis.base import NetworkAnalysis, Table, columns_table, require, runs_table
from nas_osr.runs.run_folder import RunFolder

if TYPE_CHECKING:
    from nas_osr.metrics.open_set import Array

ESTIMATORS = ("TwoNN", "MLE", "lPCA")
MIN_POINTS = 10  # an estimate from fewer says nothing


@dataclass
class Dimension(NetworkAnalysis):
    """Estimate the intrinsic dimension of the features of known training images (GradMix, table 1)."""

    name: ClassVar[str] = "dimension"

    estimators: Annotated[list[str], Choices(ESTIMATORS)] = field(default_factory=lambda: ["TwoNN", "MLE"])
    "of scikit-dimension."
    limit: Annotated[int, POSITIVE] = 5000
    "most images in an estimate, drawn from all classes and again from each class."
    seed: Annotated[int, SEEDS] = 0
    "draws them."

    def check(self) -> None:
        strange = [name for name in self.estimators if name not in ESTIMATORS]
        if strange or not self.estimators:
            raise UserError(f"estimators must be of {', '.join(ESTIMATORS)}, got {', '.join(strange) or 'none'}")
        require("skdim.id")

    def figures(self, run: RunFolder) -> dict[str, Any]:
        """Estimates on a sample of the known training images.

        Returns:
            By space (`pooled`: the encoder's pooled features; `embedding`: the objective's, or its latent means, where
            it has any) and estimator: `all` (every class together), `classes` (by class name) and `class_mean` (over
            those that have an estimate). None where `estimate` gives none.

        Raises:
            UserError: missing images, or features that are not numbers.
        """
        import numpy as np
        import torch

        from nas_osr.evaluation.judging import collect_outputs
        from nas_osr.retrain.analysis.frozen_network import check_finite, draw_sample, pooled_features

        opened = self.reopen(run)
        train = opened.data.train
        spaces = {"pooled": pooled_features(opened, train)}
        outputs = collect_outputs(opened.learner.infer, train, device=opened.fabric.device)
        embedding = outputs.latent_mean if outputs.embedding is None else outputs.embedding
        if embedding is not None:
            spaces["embedding"] = check_finite(opened, embedding)
        every = draw_sample(len(train), self.limit, self.seed, "dimension")
        classes = {}
        for label, name in enumerate(opened.protocol.class_names):
            members = torch.nonzero(train.labels == label).flatten()
            classes[name] = members[draw_sample(len(members), self.limit, self.seed, "dimension", label)]
        figures: dict[str, Any] = {}
        for space, features in spaces.items():
            figures[space] = {}
            for estimator in self.estimators:
                found = {name: estimate(features[index].numpy(), estimator) for name, index in classes.items()}
                defined = [value for value in found.values() if value is not None]
                figures[space][estimator] = {
                    "all": estimate(features[every].numpy(), estimator),
                    "classes": found,
                    "class_mean": float(np.mean(defined)) if defined else None,
                }
        return figures

    def tables(self, results: Mapping[str, dict[str, Any]]) -> Iterator[Table]:
        """Of one run each class too, of several a column for each run."""
        classes: dict[str, dict[str, Any]] = {}
        runs: dict[str, dict[str, Any]] = {name: {} for name in results}
        for name, spaces in results.items():
            for key, found in ((f"{space} {kind}", spaces[space][kind]) for space in spaces for kind in spaces[space]):
                classes[key] = {"all": found["all"], "class mean": found["class_mean"], **found["classes"]}
                runs[name] |= {f"{key} {part}": found[part] for part in ("all", "class_mean")}
        yield columns_table(classes) if len(results) == 1 else runs_table(runs)


def estimate(points: Array, estimator: str) -> float | None:
    """The intrinsic dimension of points [n, D], D >= 2, by scikit-dimension's estimator of that name.

    Equal points count once, because ratios of distances are undefined among them. None for fewer than `MIN_POINTS`
    distinct points, or where the estimator finds no finite value.
    """
    import numpy as np

    skdim = require("skdim.id")
    distinct = np.unique(points.astype(np.float64), axis=0)
    if len(distinct) < MIN_POINTS:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few neighbours in small classes
        value = float(getattr(skdim, estimator)().fit(distinct).dimension_)
    return value if math.isfinite(value) else None
