"""Latencies in a search: the table that its run keeps, and how well it foretold those of the network that was found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nas_osr.runs.names import LATENCY_FILE
from nas_osr.runs.progress import tell
from nas_osr.runs.run_folder import RunFolder
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.budgets import Budget, network_sizes
from nas_osr.search_spaces.constrained import check_budget, space_pieces
from nas_osr.search_spaces.latencies import LatencyTable, measure_latencies, measure_network, read_latencies
from nas_osr.strategies.base import SearchPlan


def find_latencies(run: RunFolder, plan: SearchPlan, device: torch.device) -> LatencyTable | None:
    """What the plan needs of them: its run's own where it is resumed, those of a file, or measured now; else None.

    UserError: the file is none or of another space, or no network is quick enough.
    """
    if not plan.needs_latencies:
        return None
    pieces = space_pieces(plan.space, plan.protocol.image_shape)
    if run.resumed and (run.path / LATENCY_FILE).exists():
        table = read_latencies(run.path)
    elif plan.latency_table is not None:
        table = read_latencies(Path(plan.latency_table))
    else:
        if not plan.output.quiet:
            tell(f"measuring {len(pieces)} pieces of networks for --max_latency")
        table = measure_latencies(pieces, device)
    for piece in pieces.values():
        table.of(piece)
    check_budget(replace(plan.budget, table=table), plan.space)
    return table


def found_latency(architecture: Architecture, budget: Budget) -> dict[str, Any]:
    """What `architecture.json` says of it: by the table, which equal searches share; nothing without one."""
    table = budget.table
    if table is None:
        return {}
    took = network_sizes(architecture, budget.image_shape, table).nanoseconds
    return {"latency": {"milliseconds": table.milliseconds(took), "device": table.device, "batch": table.batch}}


def compare_latency(run: RunFolder, architecture: Architecture, plan: SearchPlan, device: torch.device) -> None:
    """Measure the network that was found, leave that beside the table, and say it in a line."""
    table = plan.budget.table
    if table is None:
        return
    measured = measure_network(architecture, plan.protocol.image_shape, device, table.batch)
    expected = found_latency(architecture, plan.budget)["latency"]["milliseconds"]
    found = {"milliseconds": measured, "by_the_table": expected}
    run.write_json(LATENCY_FILE, {**table.to_dict(), "found": found})
    if not plan.output.quiet:
        limit = plan.budget.latency
        against = "" if limit is None else f", the limit {limit:.3g}"
        if limit is not None and measured > limit:
            against += f": it is above, and --max_latency {limit * expected / measured:.3g} would leave room"
        tell(f"latency: {measured:.3g} ms an image measured, {expected:.3g} by the table of {table.device}{against}")
