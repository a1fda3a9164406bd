"""What was found, in one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def verdict(metrics: Mapping[str, Any]) -> str:
    """What an evaluation, or the mean of several, has found.

    Args:
        metrics: fractions, each a number, None, or {"mean", "std", "n"}.
    """

    def percent(name: str) -> str:
        value = metrics.get(name)
        value = value["mean"] if isinstance(value, Mapping) else value
        return "-" if value is None else f"{100 * value:.1f} %"

    return (
        f"of known test images {percent('accepted_known')} are accepted, and {percent('closed_set_accuracy')} have the "
        f"right class on top; {percent('rejected_unknown')} of the unknown ones are rejected; AUROC {percent('auroc')}"
    )


def as_sentence(text: str) -> str:
    """With a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def list_names(names: Sequence[str], most: int = 40) -> str:
    """Names with commas, of many the first and how many there are besides."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
