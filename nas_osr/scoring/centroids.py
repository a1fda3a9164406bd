"""Nearest-centroid rules NC-D and NC-U of GMVAE (Cao et al.), with the paper's threshold picker."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from nas_osr.errors import UserError
from nas_osr.metrics.open_set import f1_of_counts
from nas_osr.outputs import Outputs
from nas_osr.scoring.base import Scores, ScoringRule, bounded, count_classes

#: The picker's two slopes: the threshold is where F1(tau), once it has risen steeply, flattens out.
STEEP, FLAT = 1.5, 0.4
#: Starts of each k-means; the best one counts.
KMEANS_STARTS = 10
#: The largest validation score counts as at least this, so that it can be divided by.
SCALE_FLOOR = 1e-200


class NCDistance(ScoringRule):
    """NC-D: unknown iff d, the distance of the embedding to the nearest k-means centroid, is at least tau.

    Knownness is -d, and the label is the class of that centroid. `threshold` is the knownness just above that of
    d = tau * scale, so that the boundary itself is unknown.

    Attributes:
        subclusters: k-means clusters K_c of every class, or one number per class; None is as many as the objective's
            own `config.subclusters` says, else 1. A class has at most as many as it has different training images; one
            without any has none and is never the label.
        step: distance between the tau that the picker tries. Slopes are noisy where few images fall into a step: about
            by sqrt(1 / (images * step)).
        seed: of k-means.
        num_known: N, the number of known classes.
        centroids, classes: [C, D] float64 and [C] int64, the class of each.
        tau, scale: the picker's threshold and its unit: for NC-D the smallest distance at which every known validation
            image is called known, so tau = 1 accepts them all. None before `set_threshold`.
        picker: "derivative" where F1 rises steeply enough; otherwise "quantile": the threshold then accepts the share
            `acceptance` of known validation images.
        curve: the `tau` that were tried and the `f1` of each, on known validation images; None before `set_threshold`.
    """

    name = "nc_distance"
    paper = "GMVAE (Cao et al. 2020)"
    needs = frozenset({"embedding"})
    learned = ("num_known", "centroids", "classes", "tau", "scale", "picker")
    is_ratio: ClassVar[bool] = False  # whether `strangeness` has no unit that tau could be measured in

    def __init__(
        self,
        acceptance: float = 0.95,
        subclusters: int | Sequence[int] | None = None,
        step: float = 0.05,
        seed: int = 0,
    ) -> None:
        super().__init__(acceptance)
        self.subclusters = None if subclusters is None else self.check_subclusters(subclusters)
        if isinstance(step, bool) or not isinstance(step, (int, float)) or not 1e-4 <= step <= 0.5:
            raise UserError(f"scoring rule '{self.name}': step must lie between 0.0001 and 0.5, not {step!r}")
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise UserError(f"scoring rule '{self.name}': seed must be a whole number from 0, not {seed!r}")
        self.step, self.seed = float(step), seed
        self.curve: dict[str, list[float]] | None = None

    def check_subclusters(self, value: object) -> int | tuple[int, ...]:
        """A number of clusters, or one per class. Raises UserError when it is neither."""
        if isinstance(value, int):
            return self.check_count("subclusters", value)
        if not isinstance(value, (list, tuple)) or not value:
            raise UserError(f"scoring rule '{self.name}': subclusters must be a number or a list, not {value!r}")
        return tuple(self.check_count("subclusters", count) for count in value)

    def fit(self, outputs: Outputs, targets: Tensor, objective: object | None = None) -> None:
        """Find the centroids of all training images of each class. targets: [B] int64 in 0..N-1.

        Raises:
            UserError: there is no image, the embeddings are not numbers (the network has diverged), or `subclusters`
                lists another number of classes.
        """
        embedding = outputs.embedding
        assert embedding is not None
        if len(embedding) == 0:
            raise UserError(f"scoring rule '{self.name}': no known training image to find centroids of")
        if embedding.isnan().any():
            raise self.diverged("embeddings of known training images")
        self.num_known = count_classes(outputs, targets, objective)
        counts = self.subclusters
        if counts is None:
            own = getattr(getattr(objective, "config", None), "subclusters", None)
            counts = 1 if own is None else self.check_subclusters(own)
        if isinstance(counts, int):
            counts = (counts,) * self.num_known
        if len(counts) != self.num_known:
            raise UserError(
                f"scoring rule '{self.name}': subclusters lists {len(counts)} classes, there are {self.num_known}"
            )
        owners = targets.to(embedding.device)
        found = [  # class by class: a float64 copy of all embeddings would be the largest thing here
            cluster_means(bounded(embedding[owners == label]).cpu().numpy(), count, self.seed)
            for label, count in enumerate(counts)
        ]
        self.centroids = torch.from_numpy(np.concatenate(found)).to(embedding.device)
        sizes = torch.tensor([len(centroids) for centroids in found])
        self.classes = torch.arange(self.num_known).repeat_interleave(sizes).to(embedding.device)

    def scores(self, outputs: Outputs) -> Scores:
        """Minus what is compared with tau * scale, and minus the distance to the nearest centroid of each class."""
        embedding = bounded(outputs.embedding)
        centroids, classes = self.learnt("centroids", embedding), self.learnt("classes", embedding)
        distances = torch.cdist(embedding, centroids, compute_mode="donot_use_mm_for_euclid_dist")  # [B, C]
        owners = classes.expand_as(distances)
        nearest = distances.new_full((distances.shape[0], self.num_known), -math.inf)
        return Scores(-self.strangeness(distances), nearest.scatter_reduce(1, owners, -distances, "amax"))

    def strangeness(self, distances: Tensor) -> Tensor:
        """[B] float64 >= 0, higher = less known, from distances [B, C]."""
        return distances.amin(dim=1)

    def set_threshold(self, outputs: Outputs, targets: Tensor) -> None:
        """Choose tau by the slope of F1 on these known validation images (see `pick_tau`), else the quantile.

        Raises:
            UserError: there is no image, or an embedding is not a number (the network has diverged).
        """
        judged = self.scores(outputs)
        fallback = self.quantile(judged.knownness, 1.0 - self.acceptance)
        scores = -judged.knownness.cpu().numpy()
        rescaled = not self.is_ratio or len(self.centroids) == 1
        self.scale = math.nextafter(max(float(scores.max()), SCALE_FLOOR), math.inf) if rescaled else 1.0
        taus = np.arange(math.ceil(1 / self.step) + 3) * self.step
        labels, limits = judged.labels.cpu().numpy(), taus * self.scale
        curve = f1_curve(scores, labels, targets.cpu().numpy(), self.num_known, limits)
        tau = pick_tau(taus, curve)
        if tau is None:
            self.picker, self.tau, self.threshold = "quantile", -fallback / self.scale, fallback
        else:
            self.picker, self.tau = "derivative", tau
            self.threshold = math.nextafter(-tau * self.scale, math.inf)
        self.curve = {"tau": taus.tolist(), "f1": curve.tolist()}

    def threshold_source(self) -> dict[str, Any]:
        """The picker with its tau and scale, and the curve F1(tau) that it saw (None of a rule from a model folder)."""
        return {"picker": self.picker, "tau": self.tau, "scale": self.scale, "curve": self.curve}


class NCUncertainty(NCDistance):
    """NC-U: unknown iff U >= tau, where U in [0, 1] is d over the mean distance to all other centroids.

    The other centroids are all but the nearest one, those of the same class included. Knownness is -U. Tau is in units
    of U itself. With one centroid in all there are no others: U is then d, and tau is rescaled as for NC-D. Where all
    centroids coincide with the image, U is 0.
    """

    name = "nc_uncertainty"
    paper = "GMVAE (Cao et al. 2020)"
    is_ratio = True

    def strangeness(self, distances: Tensor) -> Tensor:
        nearest, index = distances.min(dim=1)
        others = distances.shape[1] - 1
        if others == 0:
            return nearest
        mean = distances.scatter(1, index[:, None], 0.0).sum(dim=1) / others
        # no other distance is smaller than the nearest, so only rounding can bring the ratio above 1
        return torch.where(mean > 0, nearest / mean, 0.0).clamp_max(1.0)


def cluster_means(points: np.ndarray, count: int, seed: int) -> np.ndarray:
    """[c, D] k-means centroids of points [n, D] float64, c = `count` or, if fewer, the number of different points."""
    from sklearn.cluster import KMeans

    count = min(count, len(np.unique(points, axis=0))) if count > 1 else min(count, len(points))
    if count == 0:
        return points
    if count == 1:
        return points.mean(axis=0, keepdims=True)
    unit = max(float(np.abs(points).max()), 1e-300)  # keeps squares of extreme values apart from 0 and infinity
    return KMeans(count, n_init=KMEANS_STARTS, random_state=seed).fit(points / unit).cluster_centers_ * unit


def f1_curve(
    scores: np.ndarray, labels: np.ndarray, targets: np.ndarray, num_known: int, limits: np.ndarray
) -> np.ndarray:
    """[T] F1 on known images, averaged over the N known classes, when scores [B] >= limits [T] are called unknown.

    labels, targets: [B] int64 predicted and true classes in 0..N-1. A class that is neither there nor predicted has 0.
    """
    order = np.argsort(scores)
    accepted = np.searchsorted(scores[order], limits)  # [T] how many scores are below each limit
    guessed = np.zeros((len(scores) + 1, num_known), dtype=np.int64)  # row i: predictions among the i lowest scores
    hits = guessed.copy()
    np.cumsum(np.eye(num_known, dtype=np.int64)[labels[order]], axis=0, out=guessed[1:])
    np.cumsum(np.eye(num_known, dtype=np.int64)[labels[order]] * (labels == targets)[order, None], axis=0, out=hits[1:])
    actual = np.bincount(targets, minlength=num_known)
    return f1_of_counts(hits[accepted], guessed[accepted], actual).mean(axis=1)


def pick_tau(taus: np.ndarray, curve: np.ndarray) -> float | None:
    """The first tau after the first steep one at which F1 is flat; None where there is no such tau.

    With forward differences F1'(tau_i) = (F1_{i+1} - F1_i) / (tau_{i+1} - tau_i):
    tau~ = min{tau: F1' >= 1.5} and the result is min{tau > tau~: F1' <= 0.4}. taus ascend; taus and curve are [T] each.
    """
    slopes = np.diff(curve) / np.diff(taus)
    steep = np.flatnonzero(slopes >= STEEP)
    if len(steep) == 0:
        return None
    flat = np.flatnonzero(slopes[steep[0] + 1 :] <= FLAT)
    return float(taus[steep[0] + 1 + flat[0]]) if len(flat) else None
