"""A run that is asked for more epochs than it has had."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from nas_osr.errors import UserError
from nas_osr.runs.run_folder import RunFolder

logger = logging.getLogger(__name__)

RESULTS = ("metrics*.json", "predictions*.csv", "analysis-*.json", "summary.*")  # of the network as it was


def lengthen(run: RunFolder, config: Mapping[str, Any], bound: str | None, more: tuple[str, ...] = ()) -> None:
    """Let a run that is taken over go on for more epochs than it has had, where it is asked for more; else do nothing.

    Args:
        run: open to write.
        config: what is asked for.
        bound: why a longer run is another one from its first step on; None where it is not.
        more: other entries of the configuration that may change with the epochs.

    Raises:
        UserError: it is bound, or another entry differs, too.
    """
    if not (run.resumed or run.finished):
        return
    before, now = run.read_config().get("epochs"), config.get("epochs")
    if not (isinstance(before, int) and isinstance(now, int) and before < now):
        return
    if bound is not None:
        raise UserError(
            f"{run.path}: cannot go on from {before} to {now} epochs: {bound}, and the first {before} would have been "
            "others; choose another --out, or --overwrite it"
        )
    finished = run.finished
    run.extend(config, ("epochs", *more))
    if finished:
        for name in (name for pattern in RESULTS for name in run.path.glob(pattern)):
            name.unlink()
        run.resumed = True
    logger.warning("%s: goes on to %d epochs; what was found after %d is replaced", run.path, now, before)
