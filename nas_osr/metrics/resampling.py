"""What repeats a metric: bootstrap intervals, differences of two methods, the openness-F1 curve, spread over runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nas_osr.metrics.open_set import Array, dense_ranks, f1_of_counts, harmonic_of_counts, label_counts, openness

#: Pairs from which Wilcoxon's test can come below 5 %.
MANY_PAIRS = 6
#: Pairs from which an interval of their mean says something: of two it is twelve times as wide as they are apart.
SOME_PAIRS = 3


def bootstrap_intervals(
    knownness: ArrayLike,
    predicted: ArrayLike,
    labels_pred: ArrayLike,
    true: ArrayLike,
    num_known: int,
    *,
    strata: ArrayLike | None = None,
    repeats: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, tuple[float, float] | None]:
    """Percentile bootstrap intervals over test images (Efron 1979), stratified over classes.

    Every class keeps its number of images; so the interval says how far the figure depends on which images of the
    classes were tested, not on training or on the choice of classes.

    Args:
        knownness, predicted, labels_pred, true, num_known: as in `nas_osr.metrics.open_set.evaluate_open_set`.
        strata: [B] class of each image, of any comparable type; the true labels if None (all unknown classes as one).
        repeats: the number of resamples.
        level: the coverage, in (0, 1).

    Returns:
        (low, high) by metric: auroc, oscr, macro_f1, macro_f1_harmonic, closed_set_accuracy; None where undefined.
    """
    if repeats < 1 or not 0.0 < level < 1.0:
        raise ValueError(f"bootstrap needs repeats >= 1 and a level in (0, 1), got {repeats} and {level}")
    truth, guesses, closed = np.asarray(true), np.asarray(predicted), np.asarray(labels_pred)
    ranks = dense_ranks(knownness)
    samples: dict[str, list[float]] = {}
    for weights in _resamples(truth if strata is None else strata, repeats, seed):
        for name, value in _weighted_metrics(ranks, guesses, closed, truth, num_known, weights).items():
            samples.setdefault(name, []).append(value)
    tail = (1.0 - level) / 2.0
    return {
        name: None if np.isnan(values).any() else tuple(np.quantile(values, [tail, 1.0 - tail]).tolist())
        for name, values in samples.items()
    }


def paired_differences(
    first: tuple[ArrayLike, ArrayLike, ArrayLike],
    second: tuple[ArrayLike, ArrayLike, ArrayLike],
    true: ArrayLike,
    num_known: int,
    *,
    strata: ArrayLike | None = None,
    repeats: int = 1000,
    seed: int = 0,
) -> dict[str, Array]:
    """Differences of two methods on resamples of the same test images, first minus second: a paired bootstrap.

    Args:
        first, second: knownness, predicted and labels_pred of each, as for `bootstrap_intervals`.
        true, num_known, strata, repeats: as there; both methods see the same resample.

    Returns:
        [repeats] by metric, NaN where it is not defined.
    """
    truth = np.asarray(true)
    sides = [
        (dense_ranks(scores), np.asarray(guesses), np.asarray(closed)) for scores, guesses, closed in (first, second)
    ]
    samples: dict[str, list[float]] = {}
    for weights in _resamples(truth if strata is None else strata, repeats, seed):
        ours, theirs = (_weighted_metrics(*side, truth, num_known, weights) for side in sides)
        for name, value in ours.items():
            samples.setdefault(name, []).append(value - theirs[name])
    return {name: np.array(values) for name, values in samples.items()}


def signed_rank(differences: ArrayLike) -> float | None:
    """The two-sided p of Wilcoxon's signed-rank test; None for fewer than `MANY_PAIRS` pairs, or equal ones alone."""
    from scipy.stats import wilcoxon

    values = np.asarray(differences, dtype=np.float64)
    return float(wilcoxon(values).pvalue) if len(values) >= MANY_PAIRS and values.any() else None


def student_interval(differences: ArrayLike, level: float = 0.95) -> list[float] | None:
    """Student's interval of the mean of paired differences [pairs]: two numbers; None for fewer than `SOME_PAIRS`."""
    from scipy.stats import t

    values = np.asarray(differences, dtype=np.float64)
    if len(values) < SOME_PAIRS:
        return None
    width = t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return [float(values.mean() - width), float(values.mean() + width)]


def openness_f1_curve(
    true: ArrayLike,
    predicted: ArrayLike,
    source_classes: ArrayLike,
    num_known: int,
    *,
    max_subsets: int = 200,
    seed: int = 0,
) -> list[dict[str, float | int | None]]:
    """Macro-F1 against the number Q of unknown classes whose images are included (GMVAE's curves).

    Known images are always all there. For each Q from 0 to the number of unknown classes: all subsets of Q classes when
    there are at most `max_subsets` of them, else as many distinct seeded ones.

    Args:
        true, predicted: [B] labels in 0..N.
        source_classes: [B] the class an image comes from, of any comparable type; read for the unknown images only.

    Returns:
        One record per Q: unknown_classes (Q), openness_cac, openness_gradmix, subsets (how many), macro_f1 (their
        mean), std (over the subsets, ddof 1; None for one subset). At Q = 0 the F1 averages N labels, elsewhere N+1.
    """
    truth, guesses, sources = np.asarray(true), np.asarray(predicted), np.asarray(source_classes)
    unknown = truth == num_known
    hits, guessed, actual = label_counts(truth[~unknown], guesses[~unknown], num_known)
    guessed = np.bincount(guesses[~unknown], minlength=num_known + 1)
    names, members = np.unique(sources[unknown], return_inverse=True)
    table = np.zeros((len(names), num_known + 1))  # predicted labels of each unknown class
    np.add.at(table, (members, guesses[unknown]), 1)

    generator = np.random.default_rng(seed)
    curve: list[dict[str, float | int | None]] = []
    for count in range(len(names) + 1):
        values = []
        for subset in _subsets(len(names), count, max_subsets, generator):
            extra = table[list(subset)].sum(axis=0)
            all_hits, all_actual = np.append(hits, extra[num_known]), np.append(actual, extra.sum())
            labels = slice(num_known + 1 if count else num_known)
            scores = f1_of_counts(all_hits[labels], (guessed + extra)[labels], all_actual[labels])
            values.append(float(scores.mean()))
        curve.append(
            {
                "unknown_classes": count,
                "openness_cac": openness(num_known, count, "cac"),
                "openness_gradmix": openness(num_known, count, "gradmix"),
                "subsets": len(values),
                "macro_f1": float(np.mean(values)),
                "std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            }
        )
    return curve


def mean_and_spread(results: Sequence[Mapping[str, float | None]]) -> dict[str, dict[str, Any]]:
    """Mean and spread over runs, per metric.

    Returns:
        By metric name, in order of first appearance: `mean`, `std` (ddof 1) and `n`, the number of runs that define the
        metric. The mean is None for n = 0, the std for n < 2.
    """
    summary: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(name for result in results for name in result):
        values = [float(value) for result in results if (value := result.get(name)) is not None]
        summary[name] = {
            "mean": float(np.mean(values)) if values else None,
            "std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            "n": len(values),
        }
    return summary


def spread_apart(values: Mapping[tuple[str, str], float | None]) -> tuple[float | None, float | None]:
    """How far a metric differs between splits, and between the seeds of a split.

    Args:
        values: by split and seed; those that are None do not count.

    Returns:
        the standard deviation (ddof 1) of the splits' means over their seeds, and the root of the mean variance (ddof
        1) inside splits; None where there is one split, or one seed in each.
    """
    splits: dict[str, list[float]] = {}
    for (split, _), value in values.items():
        if value is not None:
            splits.setdefault(split, []).append(value)
    several = [own for own in splits.values() if len(own) > 1]
    between = float(np.std([np.mean(own) for own in splits.values()], ddof=1)) if len(splits) > 1 else None
    return between, float(np.sqrt(np.mean([np.var(own, ddof=1) for own in several]))) if several else None


def _resamples(strata: ArrayLike, repeats: int, seed: int) -> Iterator[Array]:
    """How often each of [B] images occurs in a resample that leaves every stratum its size, `repeats` times."""
    # With images sorted by class, a resample draws each position from the range that its class occupies.
    classes = np.unique(np.asarray(strata), return_inverse=True)[1]
    order = np.argsort(classes, kind="stable")
    sizes = np.bincount(classes)
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    spans = np.repeat(sizes, sizes)
    generator = np.random.default_rng(seed)
    for _ in range(repeats):
        drawn = order[starts + generator.integers(0, spans)]
        yield np.bincount(drawn, minlength=len(order)).astype(np.float64)


def _weighted_metrics(
    ranks: Array, guesses: Array, closed: Array, truth: Array, num_known: int, weights: Array
) -> dict[str, float]:
    """The metrics of a test set in which image i occurs weights[i] times; NaN where undefined."""
    unknown = truth == num_known
    right = closed == truth
    known_weights = np.where(unknown, 0.0, weights)
    num_images, num_unknown = known_weights.sum(), weights[unknown].sum()
    pairs = num_images * num_unknown
    at_rank = np.bincount(ranks, weights - known_weights)
    below = (np.cumsum(at_rank) - at_rank / 2.0)[ranks]  # unknown images under each image, a tie counts one half
    counts = label_counts(truth, guesses, num_known, weights)
    return {
        "auroc": known_weights @ below / pairs if pairs else math.nan,
        "oscr": known_weights[right] @ below[right] / pairs if pairs else math.nan,
        "macro_f1": float(f1_of_counts(*counts).mean()),
        "macro_f1_harmonic": harmonic_of_counts(*counts),
        "closed_set_accuracy": known_weights[right].sum() / num_images if num_images else math.nan,
    }


def _subsets(total: int, count: int, maximum: int, generator: np.random.Generator) -> Iterable[tuple[int, ...]]:
    """All subsets of `count` of `total` classes, or `maximum` distinct random ones if there are more."""
    if math.comb(total, count) <= maximum:
        return combinations(range(total), count)
    chosen: dict[tuple[int, ...], None] = {}
    while len(chosen) < maximum:
        chosen[tuple(sorted(generator.choice(total, count, replace=False).tolist()))] = None
    return chosen
