"""Which of several things no other beats in both cost and value."""

from __future__ import annotations

from typing import Any

import numpy as np


def pareto_front(cost: Any, value: Any) -> list[int]:
    """The places of points [n] that no other beats in lower cost and higher value, by rising cost."""
    order = np.lexsort((-np.asarray(value), np.asarray(cost)))
    front: list[int] = []
    for place in order.tolist():
        if not front or value[place] > value[front[-1]]:
            front.append(place)
    return front
