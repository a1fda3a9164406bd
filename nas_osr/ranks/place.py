"""Which of several processes this is, and how they speak with one voice. Free of torch.

`torchrun --nproc-per-node N -m nas_osr COMMAND` starts the same command N times (a rank each, also on several machines)
and tells each its place by environment variables. `nas_osr.ranks.replicas` is what the ranks do together.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nas_osr.errors import UserError

GRACE = 60.0  # seconds in which the first rank can say what is wrong before another one does


@dataclass(frozen=True)
class Rank:
    """A process among `count`; the first, 0, is the one that writes and speaks."""

    index: int = 0
    "among all processes."
    count: int = 1
    "how many processes there are."
    local_index: int = 0
    "among those on this machine."
    local_count: int = 1
    "how many of them are here."


def current_rank() -> Rank:
    """This process's place, from torchrun's environment; rank 0 of 1 without torchrun."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return Rank()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return Rank(*(int(os.environ[name]) for name in names))


def refuse_ranks(what: str) -> None:
    """UserError when torchrun has started several processes of something that works in one."""
    if current_rank().count > 1:
        raise UserError(f"{what} runs in one process: start it without torchrun")


def check_divided(objective: str, divisible: bool, batch_size: int) -> None:
    """UserError when there are several ranks and the batch cannot be divided among them.

    Args:
        objective: its name.
        divisible: whether its loss allows that, see `nas_osr.objectives.base.Objective`.
        batch_size: images a step, of all ranks together.
    """
    count = current_rank().count
    if count == 1:
        return
    if not divisible:
        raise UserError(f"objective {objective} needs a whole batch in one process: start it without torchrun")
    if batch_size % count or batch_size < 2 * count:
        raise UserError(
            f"a batch of {batch_size} images cannot be divided among {count} processes: "
            f"choose a batch_size that is a multiple of {count}, with at least 2 images each"
        )


@contextlib.contextmanager
def one_voice() -> Iterator[None]:
    """Inside, the first of several ranks alone talks; a single process is left as it is.

    Other ranks print nothing on stdout and log errors only. Their UserErrors wait, since the first rank has most likely
    found the same and torchrun ends all ranks with it; if not, they are raised with the rank's number. An interruption
    ends them at once, and reaches the first rank once, however often it is sent.
    """
    rank = current_rank()
    if rank.count == 1:
        yield
        return
    if rank.index == 0:
        signal.signal(signal.SIGINT, interrupt_once)
        yield
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    logging.disable(logging.WARNING)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            yield
        except UserError as error:
            time.sleep(GRACE)
            raise UserError(f"rank {rank.index}: {error}") from error


def interrupt_once(number: int, frame: Any) -> None:
    """A signal handler: KeyboardInterrupt, and deaf from then on (the terminal and torchrun both send the signal)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt
