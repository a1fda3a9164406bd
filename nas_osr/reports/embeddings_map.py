"""What the network makes of the test images, on a plane: known classes, unknown images, centroids and anchors."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from nas_osr.errors import UserError
from nas_osr.evaluation.user_arrays import read_arrays
from nas_osr.metrics.open_set import Array
from nas_osr.reports.detection import shorten
from nas_osr.reports.shown_runs import Runs, ShownRun, labelled, need, only_part, only_run, retrainings
from nas_osr.reports.style import INK, QUIET, looks, new_figure, styled
from nas_osr.retrain.analysis.confusion import label_names

METHODS = ("pca", "tsne")
FEATURES = ("embedding", "pooled", "logits")
MOST_POINTS = 3000


class Points(NamedTuple):
    """What is shown: points [n, D], their labels [n] in 0..N, a centroid and perhaps an anchor [N, D] of each class."""

    points: Array
    labels: Array
    centroids: Array
    anchors: Array | None
    names: list[str]


@styled
def plot_embedding(
    runs: Runs, *, features: str = "embedding", method: str = "pca", label: str = "", columns: int = 1
) -> Figure:
    """The test images on a plane, by class; unknown images are grey crosses, class means stars, anchors of CAC squares.

    The plane of `pca` is that of the largest variance among known test images, its share beside the axes. Distances in
    `tsne` mean little. At most 3,000 images are drawn, by lot.

    Args:
        runs: one split and seed, for which `evaluate --embeddings` has left embeddings.npz.
        features: embedding (what the objective compares images by; pooled where it has none), pooled (those before any
            head) or logits (of predictions.csv; anchors of the objective `cac` are there).
        method: pca or tsne.
        label: of embeddings-LABEL.npz, under another unknown source.
        columns: of a paper that the figure is as wide as.

    Raises:
        UserError: there is no such file, or a choice is none.
    """
    for name, value, choices in (("features", features, FEATURES), ("method", method, METHODS)):
        if value not in choices:
            raise UserError(f"plot embedding: --{name} must be one of {', '.join(choices)}, got {value}")
    run = only_run(retrainings(runs), "embedding")
    only_part(run, "embedding")
    shown = read_logits(run, label) if features == "logits" else read_embedding(run, label, features)
    shown = thin_out(shown)
    planes, titles = project(shown, method)
    figure = new_figure(columns, 0.95 if columns == 1 else 0.55)
    axes = figure.add_subplot()
    points, centroids = planes[0], planes[1]
    unknown = shown.labels == len(shown.names)
    axes.plot(*points[unknown].T, "x", color=QUIET, markersize=2.6, alpha=0.6, markeredgewidth=0.7, label="unknown")
    for number, (name, look) in enumerate(zip(shown.names, looks(), strict=False)):
        own = points[shown.labels == number]
        style: dict[str, Any] = {"markersize": 2.8, "alpha": 0.65, "markeredgewidth": 0}
        axes.plot(*own.T, look.marker, color=look.color, label=shorten(name), **style)
        axes.plot(*centroids[number], "*", color=look.color, markersize=10, markeredgecolor="white", zorder=4)
        if shown.anchors is not None:
            anchor: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": INK, "markersize": 7, "zorder": 5}
            axes.plot(*planes[2][number], "s", **anchor)
    axes.set(xlabel=titles[0], ylabel=titles[1])
    axes.tick_params(labelbottom=False, labelleft=False, length=0)
    axes.plot([], [], "*", color=QUIET, markersize=5, label="class mean")
    if shown.anchors is not None:
        axes.plot([], [], "s", markerfacecolor="none", markeredgecolor=INK, label="anchor", linestyle="")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", frameon=False, markerscale=1.4)
    return figure


def read_embedding(run: ShownRun, label: str, features: str) -> Points:
    """The points of embeddings.npz; centroids are those of training images. Raises UserError."""
    [part] = run.parts
    hint = f"evaluate {part.path} --embeddings" + (f" --unknown {label}" if label else "")
    arrays = read_arrays(need(part.path / labelled("embeddings", label, "npz"), hint), any_names=True)
    kept = features if features in arrays else "pooled"
    train, names = arrays[f"train_{kept}"], arrays["known_classes"].tolist()
    centroids = class_means(train, arrays["train_label"], len(names))
    return Points(arrays[kept], arrays["true_label"], centroids, None, names)


def read_logits(run: ShownRun, label: str) -> Points:
    """The logits of predictions.csv; centroids are those of known test images. Raises UserError."""
    [part], [predictions] = run.parts, run.predictions(label)
    if predictions.column != "logit":
        raise UserError(f"{part.path}: its objective has no logits; leave --features logits out")
    logits, config = predictions.class_scores, part.read_config()
    centroids = class_means(logits, predictions.true_label, predictions.num_known)
    anchors = None
    if config.get("objective") == "cac":
        anchors = config["objective_config"].get("alpha", 10.0) * np.eye(predictions.num_known)
    return Points(logits, predictions.true_label, centroids, anchors, label_names(predictions))


def class_means(points: Array, labels: Array, num_known: int) -> Array:
    """[N, D] the mean of the points of each known class."""
    return np.stack([points[labels == label].mean(axis=0) for label in range(num_known)])


def project(shown: Points, method: str) -> tuple[list[Array], tuple[str, str]]:
    """Points, centroids and anchors on a plane, [.., 2] each, and what its axes are called."""
    several = [group for group in (shown.points, shown.centroids, shown.anchors) if group is not None]
    if method == "pca":
        pca = PCA(2, svd_solver="full").fit(shown.points[shown.labels < len(shown.names)])
        first, second = (
            f"component {n} ({100 * share:.0f} %)" for n, share in enumerate(pca.explained_variance_ratio_, 1)
        )
        return [pca.transform(group) for group in several], (first, second)
    together = np.concatenate(several).astype(np.float64)
    perplexity = min(30.0, (len(together) - 1) / 3)
    plane = TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(together)
    ends = np.cumsum([len(group) for group in several])[:-1]
    return np.split(plane, ends), ("t-SNE, 1", "t-SNE, 2")


def thin_out(shown: Points) -> Points:
    """At most `MOST_POINTS` of the points, drawn by lot."""
    if len(shown.points) <= MOST_POINTS:
        return shown
    chosen = np.sort(np.random.default_rng(0).permutation(len(shown.points))[:MOST_POINTS])
    return shown._replace(points=shown.points[chosen], labels=shown.labels[chosen])
