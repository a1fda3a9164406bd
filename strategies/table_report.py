"""What a table says: how far architectures differ, what tells the good ones, and which strategy finds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas_osr.data.protocols import Protocol
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.architectures.sampling import sample_architecture
from nas_osr.strategies.table import SearchTable
from nas_osr.strategies.table_trials import Conditions, plan_on_table, regret_on_table
from nas_osr.strategies.trials.score_predictor import Description, ScorePredictor

RESAMPLES = 1000
FOLDS = 10  # of networks that are foretold, of which there are at least as many
DRAWS = 1000  # from the whole space
SIZES = ("parameters", "macs")
Array = NDArray[np.float64]


def describe_spread(table: SearchTable, rule: str) -> dict[str, float | None]:
    """How far the true AUROC after the last epoch differs between architectures, and between seeds of one.

    Returns:
        best, median, worst: of the means over seeds. spread: their standard deviation. noise: that of the seeds of one
        architecture (pooled). between: the standard deviation between architectures without the share that the noise of
        a mean over so many seeds has in `spread`. Both are None of one seed, whose noise nobody knows.
    """
    true = table.true(rule, "auroc")[:, :, -1]
    means, seeds = true.mean(axis=1), true.shape[1]
    noise = float(np.sqrt(true.var(axis=1, ddof=1).mean())) if seeds > 1 else None
    spread = float(means.std(ddof=1)) if len(means) > 1 else 0.0
    return {
        "best": float(means.max()),
        "median": float(np.median(means)),
        "worst": float(means.min()),
        "spread": spread,
        "noise": noise,
        "between": None if noise is None else float(np.sqrt(max(0.0, spread**2 - noise**2 / seeds))),
    }


def correlate(table: SearchTable, rule: str, seed: int = 0) -> dict[str, tuple[float, float, float]]:
    """Spearman's rank correlation of each criterion with the true AUROC by `rule`, and its bootstrap interval (95 %).

    Criteria are what a search sees, means over all rotations after the last epoch, by rule; the F1 by `rule` foretold
    of networks that are held out, a tenth at a time (`foretell`); sizes, and further columns of numbers; and `auroc of
    one seed`, the true AUROC of one training against the mean of the others: what a criterion could reach that were it.

    Returns:
        (correlation, low, high) by criterion, best first; criteria that are the same for all are left out.
    """
    true = table.true(rule, "auroc")[:, :, -1]
    columns = {name: table.column(name) for name in number_columns(table)}
    if table.header["rotations"]:
        columns |= {
            f"{score} by {name}": table.pas(name, score)[:, :, -1].mean(axis=1)
            for name in table.header["rules"]
            for score in table.header["scores"]
        }
        if len(true) >= FOLDS:
            columns[f"f1 by {rule}, foretold"] = foretell(table, table.pas(rule, "f1")[:, :, -1].mean(axis=1))
    pairs = {name: (values, true.mean(axis=1)) for name, values in columns.items()}
    if true.shape[1] > 1:
        pairs["auroc of one seed"] = (true[:, 0], true[:, 1:].mean(axis=1))
    generator = np.random.default_rng(seed)
    drawn = generator.integers(0, len(true), (RESAMPLES, len(true)))
    found = {}
    for name, (values, wanted) in pairs.items():
        if np.ptp(values) > 0 and np.ptp(wanted) > 0:
            resampled = [rank_correlation(values[index], wanted[index]) for index in drawn]
            low, high = np.nanquantile(resampled, (0.025, 0.975))
            found[name] = (rank_correlation(values, wanted), float(low), float(high))
    return dict(sorted(found.items(), key=lambda item: -abs(item[1][0])))


def foretell(table: SearchTable, scores: Array) -> Array:
    """What the predictor of scores says of each tenth of the networks, from the other nine [architectures]."""
    rows = describe_networks(table, map(table.architecture, range(len(scores))))
    fold = np.random.default_rng(0).permutation(len(scores)) % FOLDS
    found = np.empty(len(scores))
    for number in range(FOLDS):
        kept = [rows[place] for place in np.flatnonzero(fold != number)]
        predictor = ScorePredictor(kept, scores[fold != number])
        found[fold == number] = predictor.predict([rows[place] for place in np.flatnonzero(fold == number)])
    return found


def foretell_space(table: SearchTable, rule: str, draws: int = DRAWS) -> dict[str, Any] | None:
    """The best that is to be expected of a whole space, by the true AUROC of a sample of it.

    Returns:
        None where the table is of the whole space, or too small. Else draws: of so many random networks of the space,
        drawn with seeds from 0 on; auroc: the highest that is foretold of one; deviation: how far its true one may be
        from it (standard deviation); architecture: which one it is, as its file would hold it.
    """
    if table.header["complete"] or len(table.rows) < FOLDS:
        return None
    true = table.true(rule, "auroc")[:, :, -1].mean(axis=1)
    predictor = ScorePredictor(describe_networks(table, map(table.architecture, range(len(true)))), true)
    drawn = [sample_architecture(table.space, seed) for seed in range(draws)]
    described = describe_networks(table, drawn)
    expected = predictor.predict(described)
    best = int(expected.argmax())
    deviation = float(predictor.deviation([described[best]])[0])
    return {
        "draws": draws, "auroc": float(expected[best]), "deviation": deviation, "architecture": drawn[best].to_dict(),
    }  # fmt: skip


def describe_networks(table: SearchTable, architectures: Iterable[Architecture]) -> list[Description]:
    """What networks on a table's images are to the predictor."""
    shape = Protocol.from_dict(table.header["protocol"]).image_shape
    return [Description.of(architecture, shape) for architecture in architectures]


def number_columns(table: SearchTable) -> list[str]:
    """The columns of a number for each architecture: sizes, and whatever has been added."""
    names = [name for name, value in table.rows[0].items() if isinstance(value, int | float)]
    return [name for name in names if all(isinstance(row.get(name), int | float) for row in table.rows)]


def rank_correlation(one: Array, other: Array) -> float:
    """Spearman's, ties having their mean rank; NaN where one side is constant."""
    from scipy.stats import rankdata

    ranks = [rankdata(values) - (len(values) + 1) / 2 for values in (one, other)]
    norm = np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum())
    return float((ranks[0] * ranks[1]).sum() / norm) if norm > 0 else float("nan")


def compare_strategies(
    table: SearchTable,
    names: Sequence[str],
    settings: Mapping[str, Any],
    conditions: Conditions,
    costs: Sequence[float],
    seeds: int,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The regret of each strategy over cost, see `regret_on_table`; raises UserError.

    Args:
        settings: of all strategies that have them; those of one alone stand under its name.
        seeds: how many searches each.

    Yields:
        name, and by cost: mean, and low and high of its bootstrap interval (95 %) over searches; with `ahead`, the
        same of the mean regret of `random` at the same cost less this one's, where `random` came first.
    """
    random: Array | None = None
    for name in names:
        plan = plan_on_table(table, name, own_settings(name, settings, names))
        regrets = regret_on_table(table, plan, conditions, costs, range(seeds))
        random = regrets if name == "random" else random
        rows = {}
        for column, cost in enumerate(costs):
            values = regrets[:, column]
            rows[f"{cost:g}"] = {
                "regret": mean_interval(values),
                "ahead": None if random is None or name == "random" else mean_interval(random[:, column] - values),
            }
        yield name, rows


def own_settings(name: str, settings: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Those that all share, and those of one strategy."""
    shared = {key: value for key, value in settings.items() if key not in names}
    return {**shared, **settings.get(name, {})}


def mean_interval(values: Array) -> tuple[float, float, float] | None:
    """The mean, and its percentile bootstrap interval (95 %); None where one is not defined."""
    if np.isnan(values).any():
        return None
    drawn = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), (0.025, 0.975))
    return float(values.mean()), float(low), float(high)
