"""Which number of subclusters pays at an equal reconstruction loss (Cao et al., choice of K_c and fig. 6).

A training is a curve: reconstruction and covering loss on known validation images, epoch after epoch. While a network
learns, reconstruction falls and covering rises, so covering losses say something of K_c only where reconstructions are
equal. With R the least reconstruction that the trainings of two counts K < K' from one seed both reach, C_K is the
covering loss where the curve of K first comes down to R. One step pays where, in the mean over seeds,

    C_K - C_K' > gain |C_K| + log(K' / K)

The logarithm is what naming one of more subclusters costs, which the covering loss leaves out (it is the v-prior's
term): without it, cutting any class in two would pay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean, stdev

#: A training has collapsed whose covering loss ends below one nat, or below this share of the largest among a class's
#: trainings at a worse reconstruction: its latents carry next to nothing of the images, cost nothing to cover, and say
#: nothing of K_c.
COLLAPSED = 1 / 3

Curve = Sequence[Mapping[str, float]]  # an epoch each: "covering" and "reconstruction", in nats an image


def recommend(curves: Mapping[int, Mapping[int, Curve]], gain: float) -> tuple[int | None, str]:
    """The first count from which the next one does not pay, the largest where every step pays; None: undecided.

    Args:
        curves: of one class: by ascending count and by seed, the same seeds for every count.
        gain: a share in (0, 1).

    Returns:
        The count, and why none is where that is so, as a clause; empty otherwise.
    """
    counts = list(curves)
    ends = [curve[-1] for own in curves.values() for curve in own.values()]
    richest = max(ends, key=lambda end: end["covering"])
    usable = {
        count: {seed: curve for seed, curve in own.items() if not has_collapsed(curve[-1], richest)}
        for count, own in curves.items()
    }
    for here, following in pairwise(counts):
        seeds = [seed for seed in usable[here] if seed in usable[following]]
        if len(seeds) < min(2, len(curves[here])):
            least = min((here, following), key=lambda count: len(usable[count]))
            return None, f"{least} collapsed in {len(curves[least]) - len(usable[least])} of {len(curves[least])} seeds"
        drops = [drop_at_equal_reconstruction(usable[here][seed], usable[following][seed]) for seed in seeds]
        excess = [drop - gain * abs(size) - math.log(following / here) for drop, size in drops]
        doubt = stdev(excess) / math.sqrt(len(excess)) if len(excess) > 1 else 0.0
        if abs(fmean(excess)) <= doubt:
            return None, f"the seeds do not agree whether {following} pay over {here}"
        if fmean(excess) < 0:
            return here, ""
    return counts[-1], ""


def has_collapsed(end: Mapping[str, float], richest: Mapping[str, float]) -> bool:
    """Whether a training that ends so has collapsed, beside the one whose covering loss is the largest."""
    poor = end["covering"] < COLLAPSED * richest["covering"] and end["reconstruction"] > richest["reconstruction"]
    return poor or end["covering"] < 1.0


def drop_at_equal_reconstruction(fewer: Curve, more: Curve) -> tuple[float, float]:
    """C_K - C_K' and C_K of two curves, at the least reconstruction loss that both reach."""
    level = max(min(point["reconstruction"] for point in curve) for curve in (fewer, more))
    few, many = covering_at(fewer, level), covering_at(more, level)
    return few - many, few


def covering_at(curve: Curve, level: float) -> float:
    """The covering loss where the reconstruction loss first comes down to `level`, which it does; linear between."""
    index = next(number for number, point in enumerate(curve) if point["reconstruction"] <= level)
    after, before = curve[index], curve[max(index - 1, 0)]
    if before["reconstruction"] <= level:  # from the first epoch on
        return after["covering"]
    share = (before["reconstruction"] - level) / (before["reconstruction"] - after["reconstruction"])
    return before["covering"] + share * (after["covering"] - before["covering"])
