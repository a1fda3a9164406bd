"""Linear probing: how well a linear classifier tells the known classes apart from the frozen encoder's features.

The features are the pooled ones under every head, as usual (and in GradMix, whose probe is trained by SGD in batches of
256 and reported at its best test epoch; here logistic regression is solved to its optimum, so nothing is picked).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from nas_osr.option_docs import POSITIVE
from nas_osr.retrain.analysis.base import NetworkAnalysis, Table, folder_name, runs_table
from nas_osr.runs.progress import tell
from nas_osr.runs.run_folder import RunFolder

if TYPE_CHECKING:
    from nas_osr.metrics.open_set import Array


@dataclass
class Probe(NetworkAnalysis):
    """Train a linear classifier on the frozen encoder's pooled features; top-1 and top-5 closed-set accuracy."""

    name: ClassVar[str] = "probe"

    inverse_penalty: Annotated[float, POSITIVE] = 1.0
    "C of the logistic regression; smaller values regularise more."
    iterations: Annotated[int, POSITIVE] = 1000
    "limit of its optimiser."

    def figures(self, run: RunFolder) -> dict[str, Any]:
        """See `linear_probe`; and `network`, the closed-set accuracy of the run's own head and rule, beside it.

        The classifier learns from known training images and is tested on known test images. Raises UserError.
        """
        from nas_osr.retrain.analysis.frozen_network import known_test_images, pooled_features

        opened = self.reopen(run)
        train, test = opened.data.train, known_test_images(opened)
        figures = linear_probe(
            pooled_features(opened, train).numpy(),
            train.labels.numpy(),
            pooled_features(opened, test).numpy(),
            test.labels.numpy(),
            self.inverse_penalty,
            self.iterations,
        )
        figures["network"] = run.read_json("metrics.json")["metrics"]["closed_set_accuracy"]
        if not figures["converged"]:
            after = f"not converged after {self.iterations} iterations: raise --iterations"
            tell(f"{folder_name(run)}: {after}")
        return figures

    def tables(self, results: Mapping[str, dict[str, Any]]) -> Iterator[Table]:
        """The accuracy of the linear classifier beside that of the network itself: a column for each run."""
        shown = ("top1", "top5", "train_top1", "network")
        yield runs_table({name: {key: figures[key] for key in shown} for name, figures in results.items()})


def linear_probe(
    train: Array, train_labels: Array, test: Array, test_labels: Array, inverse_penalty: float, iterations: int
) -> dict[str, Any]:
    """Multinomial logistic regression on standardised features.

    Args:
        train, test: [n, D] and [m, D] features.
        train_labels, test_labels: [n] and [m] int64 in 0..N-1; each of the N labels occurs in training.
        inverse_penalty: C, the weight of the data against the squared norm of the weights.
        iterations: limit of the optimiser.

    Returns:
        Accuracies in [0, 1]: top1, top5 (None for N <= 5, where it could not be below 1), train_top1; `converged`,
        whether the optimiser came to its end; and width, D.
    """
    import numpy as np
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=inverse_penalty, max_iter=iterations))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(train.astype(np.float64), train_labels)
    ranked = np.argsort(-model.predict_log_proba(test.astype(np.float64)), axis=1, kind="stable")
    hits = ranked == test_labels[:, None]
    return {
        "top1": float(hits[:, 0].mean()),
        "top5": float(hits[:, :5].any(axis=1).mean()) if hits.shape[1] > 5 else None,
        "train_top1": float(model.score(train.astype(np.float64), train_labels)),
        "converged": not any(issubclass(item.category, ConvergenceWarning) for item in caught),
        "width": int(train.shape[1]),
    }
