"""The limits that a search had on the size of its networks: a retraining keeps to them, or says that it does not."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from nas_osr.errors import UserError
from nas_osr.search_spaces.amounts import AMOUNTS, LIMITS, parse_amount
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.budgets import Budget, network_sizes

logger = logging.getLogger(__name__)


def within_limits(
    architecture: Architecture, usual: int, channels: int | None, searched: Mapping[str, Any], where: str
) -> Architecture:
    """The architecture at the width of its retraining.

    That is the width that is asked for, or else the preset's, unless only the width that was searched is within the
    limits of the search. A line says which limit decides, or is not kept.

    Args:
        architecture: as it was found, with the stem that is asked for; its images are those of the search.
        usual: the preset's width of retrained networks; 0 is the searched one.
        channels: the width that is asked for; None is none.
        searched: what is recorded of the search; empty where there was none.
        where: the record's file, for messages.

    Raises:
        UserError: a limit in the record is none.
    """
    wide = architecture.with_network(usual if channels is None else channels)
    limits = {name: searched[name] for name in LIMITS if searched.get(name) is not None}
    shape = architecture.found.get("image_shape")
    if not limits or shape is None:
        return wide
    widened = wide.space.channels != architecture.space.channels
    try:
        parameters, macs, memory = (parse_amount(limits.get(name), name) for name in AMOUNTS)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    budget = Budget(tuple(shape), parameters, macs, memory)
    if budget.fits(wide) and not (widened and "max_latency" in limits):
        return wide
    if not budget.fits(wide):
        why = describe_excess(wide, budget, limits)
    else:
        latency = limits["max_latency"]
        why = f"at {wide.space.channels} channels nobody has looked at max_latency {latency:g} of its search"
    if channels is not None or not widened:
        logger.warning("%s: %s", where, why)
        return wide
    logger.warning("%s: %d channels, as was searched: %s", where, architecture.space.channels, why)
    if not budget.fits(architecture):  # with another stem
        logger.warning("%s: %s", where, describe_excess(architecture, budget, limits))
    return architecture


def describe_excess(architecture: Architecture, budget: Budget, limits: Mapping[str, Any]) -> str:
    """What of a network is above a budget, in a sentence, with the limits as options name them."""
    sizes = network_sizes(architecture, budget.image_shape, memory=budget.memory is not None)
    counted = [
        ("max_params", sizes.parameters, budget.parameters, "parameters"),
        ("max_macs", sizes.macs, budget.macs, "MACs"),
        ("max_memory", sizes.memory, budget.memory, "bytes at prediction"),
    ]
    above = ", ".join(
        f"{size:,} {unit} ({name} {limits[name]})"
        for name, size, limit, unit in counted
        if limit is not None and size > limit
    )
    return f"at {architecture.space.channels} channels the network has {above}, above the limits of its search"
