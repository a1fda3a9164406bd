"""Linear probing: how well a linear classifier tells the known classes apart from the frozen encoder's features.

The features are the pooled ones under every head, as usual (and in GradMix, whose probe is trained by SGD in batches of
256 and reported at its best test epoch; here logistic regression is solved to its optimum, so nothing is picked).
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from nas_osr.errors import UserError
from nas_osr.metrics.open_set import Array
from nas_osr.retrain.analysis.common import known_test_images, open_runs, pooled_features, reopen_run, write_figures
from nas_osr.retrain.analysis.config import ProbeConfig


def run_probe(config: ProbeConfig) -> dict[str, dict[str, Any]]:
    """`linear_probe` of each run by its folder's name; written into the run as analysis-probe.json too.

    The classifier learns from known training images and is tested on known test images. `network` is the closed-set
    accuracy of the run's own head and rule, for comparison.

    Raises:
        UserError: no finished retraining, missing images, or options out of range.
    """
    if not config.inverse_penalty > 0 or config.iterations < 1:
        raise UserError("probe: inverse_penalty must be greater than 0 and iterations at least 1")
    results = {}
    for name, run in open_runs(config.run).items():
        opened = reopen_run(run, config)
        test = known_test_images(opened)
        figures = linear_probe(
            pooled_features(opened, opened.data.train).numpy(),
            opened.data.train.labels.numpy(),
            pooled_features(opened, test).numpy(),
            test.labels.numpy(),
            config.inverse_penalty,
            config.iterations,
        )
        figures["network"] = run.read_json("metrics.json")["metrics"]["closed_set_accuracy"]
        results[name] = figures
        write_figures(run, "probe", config, figures)
    return results


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
