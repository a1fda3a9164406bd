"""Which known class an unknown one is mistaken for (CAC, fig. 4), from predictions.csv alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from nas_osr.errors import UserError
from nas_osr.evaluation.predictions import Predictions, read_predictions
from nas_osr.retrain.analysis.common import open_runs, write_figures
from nas_osr.retrain.analysis.config import ConfusionConfig


def run_confusion(config: ConfusionConfig) -> dict[str, dict[str, Any]]:
    """`confusion` of each run by its folder's name; written into the run as analysis-confusion.json too.

    Raises:
        UserError: no finished retraining, no such predictions, or no unknown image among them.
    """
    results = {}
    for name, run in open_runs(config.run).items():
        file = f"predictions-{config.label}.csv" if config.label else "predictions.csv"
        predictions = read_predictions(run.path / file)
        if not (predictions.true_label == predictions.num_known).any():
            raise UserError(f"{run.path / file}: no image of an unknown class: nothing can be mistaken")
        results[name] = confusion(predictions, config.closed)
        write_figures(run, "confusion", config, results[name])
    return results


def confusion(predictions: Predictions, closed: bool = False) -> dict[str, Any]:
    """Where the images of each unknown class go.

    Args:
        predictions: of at least one image.
        closed: ignore the threshold.

    Returns:
        `known`: the N names of the known labels (the source classes that carry one joined by "+"; its number where no
        image of it was tested). `unknown`: by class name, in alphabetical order: `images`, `shares` ([N], of its images
        that are predicted as each known label), `rejected` (the share that is; None when `closed`) and `mistaken_for`
        (the known class with the largest share; None when all are rejected).
    """
    num_known = predictions.num_known
    names = []
    for label in range(num_known):
        classes = predictions.true_class[predictions.true_label == label].tolist()
        names.append("+".join(dict.fromkeys(classes)) or str(label))
    unknown = predictions.true_label == num_known
    guesses = predictions.closed_set_label if closed else predictions.predicted_label
    result: dict[str, Any] = {}
    for name in sorted(set(predictions.true_class[unknown].tolist())):
        members = guesses[unknown & (predictions.true_class == name)]
        shares = np.bincount(members, minlength=num_known + 1) / len(members)
        known_shares = shares[:num_known]
        result[name] = {
            "images": len(members),
            "shares": known_shares.tolist(),
            "rejected": None if closed else float(shares[num_known]),
            "mistaken_for": names[int(known_shares.argmax())] if known_shares.any() else None,
        }
    return {"known": names, "unknown": result}
