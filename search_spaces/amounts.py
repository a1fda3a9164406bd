"""Limits on the size of a network as options and records name them. Free of torch."""

from __future__ import annotations

import math

from nas_osr.errors import UserError, show

AMOUNTS = ("max_params", "max_macs", "max_memory")  # with a number such as 300k
LIMITS = (*AMOUNTS, "max_latency")
FACTORS = {"k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9}


def parse_amount(value: int | str | None, name: str) -> int | None:
    """A number such as 300k, 1.5M or 2G, at least 1. UserError naming the option when it is none."""
    if not isinstance(value, str):
        return value
    number, factor = (value[:-1], FACTORS[value[-1]]) if value[-1:] in FACTORS else (value, 1)
    try:
        amount = float(number) * factor
    except ValueError:
        amount = math.nan
    if not 1 <= amount < 1e18:
        raise UserError(f"{name} must be a number such as 300k, 1.5M or 2000000, got {show(value)}")
    return round(amount)
