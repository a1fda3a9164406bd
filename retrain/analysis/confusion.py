"""Which known class an unknown one is mistaken for (CAC, fig. 4), from predictions.csv alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from nas_osr.errors import UserError
from nas_osr.retrain.analysis.base import Analysis, Table
from nas_osr.runs.run_folder import RunFolder

if TYPE_CHECKING:
    from nas_osr.evaluation.predictions import Predictions


@dataclass
class Confusion(Analysis):
    """Show which known class each unknown class is mistaken for (CAC, fig. 4), from the run's predictions."""

    name: ClassVar[str] = "confusion"

    closed: bool = False
    "ignore the threshold: the most likely known class of every image, rejected or not."
    label: str = ""
    "read predictions-LABEL.csv, which `evaluate` left under another rule or unknown source."

    def figures(self, run: RunFolder) -> dict[str, Any]:
        """See `confusion`. Raises UserError where there are no such predictions, or no unknown image among them."""
        from nas_osr.evaluation.predictions import read_predictions

        path = run.path / (f"predictions-{self.label}.csv" if self.label else "predictions.csv")
        predictions = read_predictions(path)
        if not (predictions.true_label == predictions.num_known).any():
            raise UserError(f"{path}: no image of an unknown class: nothing can be mistaken")
        return confusion(predictions, self.closed)

    def tables(self, results: Mapping[str, dict[str, Any]]) -> Iterator[Table]:
        """For each unknown class the share of its images that each known class gets: a table for each run."""
        last = ["mistaken for"] if self.closed else ["rejected", "mistaken for"]
        for name, figures in results.items():
            rows: list[list[Any]] = [["unknown class", "images", *figures["known"], *last]]
            for unknown, row in figures["unknown"].items():
                shares = row["shares"] if self.closed else [*row["shares"], row["rejected"]]
                rows.append([unknown, str(row["images"]), *shares, row["mistaken_for"]])
            yield Table(rows, name if len(results) > 1 else "")


def confusion(predictions: Predictions, closed: bool = False) -> dict[str, Any]:
    """Where the images of each unknown class go.

    Args:
        predictions: of at least one image.
        closed: ignore the threshold.

    Returns:
        `known`: the N names of the known labels, see `label_names`. `unknown`: by class name, in alphabetical order:
        `images`, `shares` ([N], of its images that are predicted as each known label), `rejected` (the share that is;
        None when `closed`) and `mistaken_for` (the known class with the largest share; None when all are rejected).
    """
    import numpy as np

    num_known, names = predictions.num_known, label_names(predictions)
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


def label_names(predictions: Predictions) -> list[str]:
    """What each of the N known labels is called: the classes that carry it, or its number where none was tested."""
    names = []
    for label in range(predictions.num_known):
        classes = predictions.true_class[predictions.true_label == label].tolist()
        names.append("+".join(dict.fromkeys(classes)) or str(label))
    return names
