"""What shows that a search collapses: to skips, to a choice made too early, or to a network that the supernet is not.

Works on the numbers of a history record, so a finished run can be looked at as well.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nas_osr.training.monitors import explosion_warnings, record_warnings

if TYPE_CHECKING:
    from nas_osr.search_spaces.supernet import Supernet

STOP_RULES = ("skips", "entropy")  # the warnings below that may end a search
STOP_EPOCHS = 3  # in a row with its warning before a stop rule ends the search

# DARTS+ (Liang et al. 2019) stops at two skip connections among the eight operations of a normal cell, each one of
# eight candidates; P-DARTS (Chen et al. 2019) allows as many. That is twice what chance picks. Here a cell is one
# operation, so this is a share of the decoded cells, and at least two; and alpha must not lean away from them.
SKIPS = 2
CHANCE = 2
ROUNDING = 1e-6  # of a sum of alphas
# Of our own, since the papers give no number: with three operations an entropy of 0.1 is a largest alpha of about .98,
# after which the others hardly learn; .95 is one of about .5, where decoding throws half of the mixture away.
SETTLED = 0.1
UNDECIDED = 0.95
GAP_SHARE = 0.5  # of the supernet's F1 that discretisation may cost; of our own


def monitor_search(
    record: Mapping[str, Any],
    norms: Mapping[str, float],
    history: Sequence[Mapping[str, Any]],
    free: Collection[str],
    stop_rule: str,
    last: bool,
    settled: bool = False,
) -> dict[str, Any]:
    """What a history record says under `monitors`; docs/reference/run-folder.md names the fields.

    Args:
        record: of this epoch, with phase, losses, f1, discrete_f1, alpha, beta and branches.
        norms: mean gradient norm by player.
        history: the records before.
        free: the parameter-free operations, by name.
        stop_rule: one of `STOP_RULES`, or none.
        last: whether no epoch follows.
        settled: whether a low temperature makes the choices, on purpose.
    """
    values = {"gradient_norm": dict(norms), **search_figures(record, free)}
    before = [earlier for earlier in history if earlier["phase"] == record["phase"]]
    warnings = explosion_warnings(record["losses"], norms, before)
    stopped = None
    if record["phase"] == "search":
        warnings |= collapse_warnings(record, values, free)
        if settled:
            warnings.pop("entropy", None)
        recent = [record_warnings(earlier) for earlier in before[-(STOP_EPOCHS - 1) :]] + [warnings]
        if stop_rule in STOP_RULES and len(recent) == STOP_EPOCHS and all(stop_rule in found for found in recent):
            stopped = f"stop_rule {stop_rule}, {STOP_EPOCHS} epochs in a row: {warnings[stop_rule]}"
        if last or stopped is not None:
            warnings |= result_warnings(record, values)
    return {**values, "warnings": warnings, "stopped": stopped}


def search_figures(record: Mapping[str, Any], free: Collection[str]) -> dict[str, Any]:
    """The share of parameter-free operations, the entropies and the discretisation gap of a history record."""
    operations = decoded_operations(record["branches"])
    alphas = [sum(p for name, p in alpha.items() if name in free) for alpha in record["alpha"].values()]
    # the beta of a cell with one source is no choice: exactly 0 and 1
    betas = {cell: beta for cell, beta in record["beta"].items() if sorted(beta.values()) != [0.0, 1.0]}
    choices = {"alpha": entropies(record["alpha"]), "beta": entropies(betas)}
    whole = {"gamma": mean(list(entropies(record["gamma"]).values()))} if "gamma" in record else {}
    return {
        "parameter_free": {"decoded": mean([float(name in free) for name in operations]), "alpha": mean(alphas)},
        "entropy": {
            **{name: mean(list(found.values())) for name, found in choices.items()},
            **{f"{name}_by_layer": by_layer(found) for name, found in choices.items()},
            **whole,
        },
        "discretisation_gap": record["f1"] - record["discrete_f1"],
    }


def collapse_warnings(record: Mapping[str, Any], values: Mapping[str, Any], free: Collection[str]) -> dict[str, str]:
    """Warnings `skips` and `entropy` of an epoch after warm-up; `values` are the `search_figures` of its record."""
    warnings = {}
    count = len(decoded_operations(record["branches"]))
    skips = round(values["parameter_free"]["decoded"] * count)
    candidates = next(iter(record["alpha"].values()))  # the same for each cell
    equal = sum(name in free for name in candidates) / len(candidates)
    entropy = values["entropy"]["alpha"]
    noise = entropy is not None and entropy > UNDECIDED  # what is decoded hardly differs from what is not
    many = max(SKIPS, min(1.0, CHANCE * equal) * count)
    if not noise and skips > many - ROUNDING and values["parameter_free"]["alpha"] > equal - ROUNDING:
        warnings["skips"] = (
            f"{skips} of {count} cells of the decoded architecture are parameter-free, their mean alpha is "
            f"{values['parameter_free']['alpha']:.2f}: collapse to skips; a longer warm-up or a smaller "
            "architecture_lr works against it"
        )
    if entropy is not None and entropy < SETTLED:
        warnings["entropy"] = (
            f"the entropy of alpha is {entropy:.2f} of its largest: the operations are chosen, and the search has "
            "nothing left to decide"
        )
    return warnings


def result_warnings(record: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, str]:
    """Warnings `undecided` and `gap` of the last epoch; arguments as in `collapse_warnings`."""
    warnings = {}
    entropy = values["entropy"]["alpha"]
    if entropy is not None and entropy > UNDECIDED:
        warnings["undecided"] = (
            f"the entropy of alpha is still {entropy:.2f} of its largest: the decoded operations hardly differ from "
            "the others; search longer or with a larger architecture_lr"
        )
    if record["discrete_f1"] < GAP_SHARE * record["f1"]:
        warnings["gap"] = (
            f"the decoded network with inherited weights has F1 {record['discrete_f1']:.2f}, the supernet "
            f"{record['f1']:.2f}: the supernet says little about the network; compare it with random architectures"
        )
    return warnings


def parameter_free(supernet: Supernet) -> set[str]:
    """The operations without a parameter where they keep the resolution (where skip halves it, it has some)."""
    forms = next(iter(supernet.network.keep.values()))
    candidates = zip(supernet.space.operations, forms, strict=True)
    return {name for name, form in candidates if not list(form.parameters())}


def decoded_operations(branches: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The operation of each cell that is on the path of some branch, counted once."""
    cells = {cell: branch["operations"][cell[0]] for branch in branches.values() for cell in enumerate(branch["path"])}
    return list(cells.values())


def entropies(choices: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """-sum p log p / log n of every cell's probabilities, in [0, 1]; cells without a choice are left out."""
    return {
        cell: -sum(p * math.log(p) for p in choice.values() if p > 0) / math.log(len(choice))
        for cell, choice in choices.items()
        if len(choice) > 1
    }


def by_layer(values: Mapping[str, float]) -> dict[str, float | None]:
    """The mean over the cells of each layer, by layer; the keys of cells are "layer/scale"."""
    layers: dict[str, list[float]] = {}
    for cell, value in values.items():
        layers.setdefault(cell.partition("/")[0], []).append(value)
    return {layer: mean(found) for layer, found in layers.items()}


def mean(values: Sequence[float]) -> float | None:
    """The mean, None of nothing."""
    return math.fsum(values) / len(values) if values else None
