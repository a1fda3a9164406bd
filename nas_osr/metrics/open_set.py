"""Open-set metrics on plain numpy arrays.

Conventions, the same everywhere: B images, N known classes; labels are integers 0..N-1 for the known classes and N for
unknown; `knownness` is any real score, higher = more known (only its order matters; infinities are allowed, NaN is
not). A metric that the data cannot define (no unknown image, say) is None, never NaN. scikit-learn is imported where it
is used: half a second that a search's first step need not wait for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]


def auroc(knownness: ArrayLike, is_unknown: ArrayLike) -> float | None:
    """Area under the ROC curve in [0, 1], unknown positive: P(unknown image ranks below a known one), ties one half."""
    from sklearn.metrics import roc_auc_score

    sides = _ranks_and_sides(knownness, is_unknown)
    return None if sides is None else float(roc_auc_score(sides[1], -sides[0]))


def auin(knownness: ArrayLike, is_unknown: ArrayLike) -> float | None:
    """Average precision in [0, 1] with known positive (step-wise, not trapezoidal)."""
    from sklearn.metrics import average_precision_score

    sides = _ranks_and_sides(knownness, is_unknown)
    return None if sides is None else float(average_precision_score(~sides[1], sides[0]))


def auout(knownness: ArrayLike, is_unknown: ArrayLike) -> float | None:
    """Average precision in [0, 1] with unknown positive (step-wise, not trapezoidal)."""
    return auin(-np.asarray(knownness, dtype=np.float64), ~np.asarray(is_unknown, dtype=bool))


def tnr_at_tpr(knownness: ArrayLike, is_unknown: ArrayLike, tpr: float = 0.95) -> float | None:
    """Share of unknown images rejected at the highest threshold that accepts at least `tpr` of the known ones.

    Known is positive: an image is accepted when its knownness is at least the threshold.
    """
    rates = _rates(knownness, is_unknown)
    return None if rates is None else float(1.0 - rates[0][np.argmax(rates[1] >= tpr)])


def dtacc(knownness: ArrayLike, is_unknown: ArrayLike) -> float | None:
    """Detection accuracy in [.5, 1]: the maximum over all thresholds of (TPR + TNR) / 2."""
    rates = _rates(knownness, is_unknown)
    return None if rates is None else float(np.max(rates[1] + 1.0 - rates[0]) / 2.0)


def oscr(knownness: ArrayLike, labels_pred: ArrayLike, labels_true: ArrayLike, num_known: int) -> float | None:
    """Area under correct-classification rate against false-positive rate (Dhamija et al. 2018), in [0, 1].

    At threshold t, CCR is the share of known images with the right `labels_pred` and knownness >= t, FPR the share of
    unknown images with knownness >= t. The curve has one point per distinct value of knownness, from (0, 0) to
    (1, accuracy), joined by straight lines; so the area is the share of (known, unknown) pairs in which the known image
    is rightly classified and ranks higher, a tie counting one half.

    Args:
        labels_pred: [B] the most likely known class of every image, before any rejection.
        labels_true: [B] true labels in 0..N.
    """
    true = np.asarray(labels_true)
    sides = _ranks_and_sides(knownness, true == num_known)
    if sides is None:
        return None
    ranks, unknown = sides
    right = ranks[~unknown & (np.asarray(labels_pred) == true)]
    others = np.sort(ranks[unknown])
    below_and_tied = np.searchsorted(others, right, "left") + np.searchsorted(others, right, "right")
    return float(below_and_tied.sum() / 2.0 / (np.sum(~unknown) * len(others)))


def macro_f1(true: ArrayLike, predicted: ArrayLike, num_known: int) -> float:
    """Mean F1 over all N+1 labels, in [0, 1]; a label without any true or predicted image counts as zero.

    When no image is truly unknown (a closed-set protocol), the labels are the N known ones; a rejected image then still
    costs its class recall.
    """
    hits, guessed, actual = label_counts(np.asarray(true), np.asarray(predicted), num_known)
    return float(f1_of_counts(hits, guessed, actual).mean())


def macro_f1_harmonic(true: ArrayLike, predicted: ArrayLike, num_known: int) -> float:
    """Harmonic mean of macro-precision and macro-recall over the labels of `macro_f1`, in [0, 1].

    The variant behind the F1 figures that the NAS-OSR paper prints; not below the standard macro-F1.
    """
    hits, guessed, actual = label_counts(np.asarray(true), np.asarray(predicted), num_known)
    return harmonic_of_counts(hits, guessed, actual)


def closed_set_accuracy(labels_pred: ArrayLike, true: ArrayLike, num_known: int) -> float | None:
    """Share of the known images whose most likely known class is right, rejection aside; None without known images."""
    truth = np.asarray(true)
    known = truth != num_known
    return float(np.mean(np.asarray(labels_pred)[known] == truth[known])) if known.any() else None


def openness(num_known: int, num_unknown: int, definition: str = "cac") -> float:
    """Openness in [0, 1) of a protocol with K = `num_known` classes out of S = K + `num_unknown` classes at test time.

    `cac` (Miller et al.): 1 - sqrt(2K / (S + K)); `gradmix`: 1 - sqrt(K / S). 6/4 gives .134 and .225.
    """
    if num_known < 1 or num_unknown < 0:
        raise ValueError(f"openness of {num_known} known and {num_unknown} unknown classes is not defined")
    total = num_known + num_unknown
    if definition == "cac":
        return float(1.0 - np.sqrt(2.0 * num_known / (total + num_known)))
    if definition == "gradmix":
        return float(1.0 - np.sqrt(num_known / total))
    raise ValueError(f"openness is defined as 'cac' or 'gradmix', not {definition!r}")


def evaluate_open_set(
    knownness: ArrayLike,
    predicted: ArrayLike,
    labels_pred: ArrayLike,
    true: ArrayLike,
    num_known: int,
    num_unknown_classes: int,
) -> dict[str, float | None]:
    """All metrics of one test set.

    Args:
        knownness: [B] scores, higher = more known.
        predicted: [B] labels in 0..N after rejection, N = unknown.
        labels_pred: [B] most likely known class in 0..N-1, before rejection.
        true: [B] labels in 0..N.
        num_known: N.
        num_unknown_classes: how many classes the unknown images come from (openness).

    Returns:
        Fractions by name, None where undefined. `accepted_known` is the share of the known images that are not
        rejected, `rejected_unknown` the share of the unknown ones that are.

    Raises:
        ValueError: lengths differ, there is no image, a label is out of range, or a knownness is NaN.
    """
    scores, guesses, closed, truth = (np.asarray(values) for values in (knownness, predicted, labels_pred, true))
    _check_labels("true", truth, num_known)
    _check_labels("predicted", guesses, num_known)
    _check_labels("labels_pred", closed, num_known - 1)
    if not len(scores) == len(guesses) == len(closed) == len(truth) > 0:
        raise ValueError("knownness, predicted, labels_pred and true must have one entry per image, and at least one")
    unknown = truth == num_known
    rejected = guesses == num_known
    return {
        "auroc": auroc(scores, unknown),
        "auin": auin(scores, unknown),
        "auout": auout(scores, unknown),
        "tnr_at_95_tpr": tnr_at_tpr(scores, unknown),
        "dtacc": dtacc(scores, unknown),
        "oscr": oscr(scores, closed, truth, num_known),
        "macro_f1": macro_f1(truth, guesses, num_known),
        "macro_f1_harmonic": macro_f1_harmonic(truth, guesses, num_known),
        "closed_set_accuracy": closed_set_accuracy(closed, truth, num_known),
        "openness_cac": openness(num_known, num_unknown_classes, "cac"),
        "openness_gradmix": openness(num_known, num_unknown_classes, "gradmix"),
        "accepted_known": float(np.mean(~rejected[~unknown])) if not unknown.all() else None,
        "rejected_unknown": float(np.mean(rejected[unknown])) if unknown.any() else None,
    }


def label_counts(true: Array, predicted: Array, num_known: int, weights: Array | None = None) -> tuple[Array, ...]:
    """Per label of the fixed label set: (weighted) numbers of hits, of predicted and of true images, each [N+1].

    The last label is dropped, [N], when no image is truly unknown.
    """
    size = num_known + 1
    hit = true == predicted
    hits = np.bincount(true[hit], weights if weights is None else weights[hit], size)
    guessed = np.bincount(predicted, weights, size)
    actual = np.bincount(true, weights, size)
    labels = slice(size if actual[num_known] > 0 else num_known)
    return hits[labels], guessed[labels], actual[labels]


def f1_of_counts(hits: Array, guessed: Array, actual: Array) -> Array:
    """F1 per label, any shape: 2 hits / (guessed + actual), zero where both are zero."""
    return _ratio(2.0 * hits, guessed + actual)


def harmonic_of_counts(hits: Array, guessed: Array, actual: Array) -> float:
    """Harmonic mean of macro-precision and macro-recall of counts [L]."""
    precision, recall = _ratio(hits, guessed).mean(), _ratio(hits, actual).mean()
    return float(2.0 * precision * recall / (precision + recall)) if precision + recall > 0 else 0.0


def dense_ranks(knownness: ArrayLike) -> Array:
    """[B] ranks 0, 1, ... of the distinct values; equal values share a rank. Raises ValueError on NaN."""
    scores = np.asarray(knownness, dtype=np.float64)
    if np.isnan(scores).any():
        raise ValueError(f"knownness of {int(np.isnan(scores).sum())} of {len(scores)} images is not a number")
    return np.unique(scores, return_inverse=True)[1]


def _check_labels(name: str, labels: Array, upper: int) -> None:
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{name} must be a flat array of integers")
    if len(labels) and not 0 <= labels.min() <= labels.max() <= upper:
        raise ValueError(f"{name} must lie in 0..{upper}, found {labels.min()}..{labels.max()}")


def _ranks_and_sides(knownness: ArrayLike, is_unknown: ArrayLike) -> tuple[Array, Array] | None:
    """`dense_ranks`, and which images are unknown; None unless there are images of both sides."""
    unknown = np.asarray(is_unknown, dtype=bool)
    ranks = dense_ranks(knownness)
    if ranks.shape != unknown.shape:
        raise ValueError(f"knownness has shape {ranks.shape}, is_unknown {unknown.shape}")
    return (ranks, unknown) if unknown.any() and not unknown.all() else None


def _rates(knownness: ArrayLike, is_unknown: ArrayLike) -> tuple[Array, Array] | None:
    """The false and true positive rates over all thresholds, known positive; see `_ranks_and_sides`."""
    from sklearn.metrics import roc_curve

    sides = _ranks_and_sides(knownness, is_unknown)
    return None if sides is None else roc_curve(~sides[1], sides[0], drop_intermediate=False)[:2]


def _ratio(numerator: Array, denominator: Array) -> Array:
    zeros = np.zeros(np.shape(denominator))
    return np.divide(numerator, denominator, out=zeros, where=denominator > 0)
