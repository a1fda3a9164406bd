"""Two methods on the same test images: how much one is better, image by image, and over splits and seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nas_osr.errors import UserError
from nas_osr.evaluation.predictions import Predictions, read_predictions
from nas_osr.files.paths import user_path
from nas_osr.metrics.resampling import MANY_PAIRS, SOME_PAIRS, paired_differences, signed_rank, student_interval
from nas_osr.retrain.evaluated import Evaluated, check_distinct, check_images, find_runs, finished_parts

REPEATS = 1000


def compare_pair(first: str | Path, second: str | Path, repeats: int = REPEATS) -> dict[str, Any]:
    """The difference of two methods in each metric: first minus second, mean over the splits and seeds of both.

    Its 95 % interval is that of a paired bootstrap over test images, stratified over classes: each resample is the same
    for both, and the mean over splits and seeds is taken of each. Over at least three pairs of splits and seeds there
    is Student's interval over them as well, and over at least six Wilcoxon's signed-rank test; fewer cannot be
    significant at 5 %.

    Args:
        first, second: a retraining each, or several of one method: a folder that holds them, or a pattern.

    Returns:
        pairs, how many splits and seeds both have; notes, what the figures do not say; metrics, by name: `first`,
        `second` and `difference` in shares, `interval` (two shares, None where a metric is not defined),
        `over_pairs` (likewise; None for fewer than three pairs) and `wilcoxon_p` (None for fewer than six).

    Raises:
        UserError: a folder is no evaluated retraining, they share no split and seed, two of one method have the same,
            or their test images differ.
    """
    ours, theirs = named_parts(first), named_parts(second)
    shared = [name for name in ours if name in theirs]
    if not shared:
        there = " against ".join(", ".join(map(name_place, own)) for own in (ours, theirs))
        raise UserError(f"{first} and {second} share no split and seed: {there}")
    metrics: dict[str, tuple[list[float | None], list[float | None]]] = {}
    samples: dict[str, list[Any]] = {}
    met: dict[str, tuple[str, Path]] = {}
    for place, name in enumerate(shared):
        for part in (ours[name], theirs[name]):
            check_images(part, met)
        one, other = (read_predictions(part.folder / "predictions.csv") for part in (ours[name], theirs[name]))
        check_same_images(one, other, f"{ours[name].folder} and {theirs[name].folder}")
        columns = judged(one), judged(other), one.true_label, one.num_known
        drawn = paired_differences(*columns, strata=strata_of(one), repeats=repeats, seed=place)
        values = one.metrics(), other.metrics()
        for metric, differences in drawn.items():
            samples.setdefault(metric, []).append(differences)
            sides = metrics.setdefault(metric, ([], []))
            for side, value in zip(sides, values, strict=True):
                side.append(value[metric])
    left_out = [name_place(place) for place in sorted({*ours, *theirs} - set(shared))]
    notes = ["the interval says how far the difference depends on the test images, not on training or on the splits"]
    notes += ["over pairs of split and seed: Student's interval, of both"] if len(shared) >= SOME_PAIRS else []
    notes += [f"left out, of one side only: {'; '.join(left_out)}"] if left_out else []
    notes += [f"Wilcoxon's test needs {MANY_PAIRS} pairs of split and seed"] if len(shared) < MANY_PAIRS else []
    figures = {name: summarise(*metrics[name], np.mean(samples[name], axis=0)) for name in metrics}
    return {"pairs": len(shared), "metrics": figures, "notes": notes}


def named_parts(path: str | Path) -> dict[tuple[str, str], Evaluated]:
    """The parts of a method by split and seed: of one retraining, or of all in a folder or of a pattern.

    Those that are still being trained are not there.

    Raises UserError where two have the same.
    """
    parts = [part for folder in find_runs(user_path(path)) for part in finished_parts(folder)]
    check_distinct(parts)
    return {part.place: part for part in parts}


def name_place(place: tuple[str, str]) -> str:
    """A split and seed in words."""
    return f"split {place[0]}, seed {place[1]}"


def check_same_images(first: Predictions, second: Predictions, where: str) -> None:
    """UserError unless two predictions are of the same test images with the same truth."""
    same = all(
        np.array_equal(getattr(first, name), getattr(second, name)) for name in ("index", "true_label", "true_class")
    )
    if not same or first.num_known != second.num_known:
        raise UserError(f"{where}: their test images or classes differ, so no image can be paired with itself")


def judged(predictions: Predictions) -> tuple[Any, Any, Any]:
    """Knownness, labels after rejection and labels before it."""
    return predictions.knownness, predictions.predicted_label, predictions.closed_set_label


def strata_of(predictions: Predictions) -> Any:
    """[B] the class of each image, known and unknown ones apart."""
    unknown = predictions.true_label == predictions.num_known
    return np.char.add(np.where(unknown, "unknown ", "known "), predictions.true_class.astype(str))


def summarise(first: list[float | None], second: list[float | None], samples: Any) -> dict[str, Any]:
    """The figures of one metric; see `compare_pair`."""
    if None in first or None in second or np.isnan(samples).any():
        return dict.fromkeys(("first", "second", "difference", "interval", "over_pairs", "wilcoxon_p"))
    ours, theirs = np.array(first, np.float64), np.array(second, np.float64)
    return {
        "first": float(ours.mean()),
        "second": float(theirs.mean()),
        "difference": float((ours - theirs).mean()),
        "interval": np.quantile(samples, [0.025, 0.975]).tolist(),
        "over_pairs": student_interval(ours - theirs),
        "wilcoxon_p": signed_rank(ours - theirs),
    }
