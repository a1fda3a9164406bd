"""A schedule that ends in time: where epochs take longer than was thought, the rest of it is passed in fewer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

logger = logging.getLogger(__name__)


class Pace:
    """The learning rate of a training that has a deadline; stands for the `factor` of a `Schedule`.

    It passes the whole of its schedule, from the first to the last learning rate, but in as many epochs as there is
    time for. Each begins at a share of the schedule that is recorded, so that a resumed training goes on from there.

    Args:
        factor: position in epochs -> factor on the learning rate.
        epochs: of the schedule, and at most.
        ends: the deadline, by `time.monotonic`.
    """

    def __init__(self, factor: Callable[[float], float], epochs: int, ends: float) -> None:
        self.factor, self.epochs, self.ends = factor, epochs, ends
        self.share, self.next_share = 0.0, 0.0
        self._epoch, self._began = 0, 0.0

    def over(self, history: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the schedule has been passed; else the next epoch begins, and how far it goes is decided."""
        now, epoch = time.monotonic(), len(history)
        self.share = float(history[-1]["share"]) if history else 0.0
        if self.share >= 1:
            logger.warning("%d epochs in place of %d, for want of time", epoch, self.epochs)
            return True
        left = self.epochs - epoch
        if self._began and epoch > self._epoch:
            left = max(1, min(left, int((self.ends - now) * (epoch - self._epoch) / (now - self._began))))
        self.next_share = 1.0 if left == 1 else self.share + (1 - self.share) / left
        self._epoch, self._began = epoch, now
        return False

    def __call__(self, position: float) -> float:
        inside = position - self._epoch
        return self.factor(self.epochs * (self.share + inside * (self.next_share - self.share)))
