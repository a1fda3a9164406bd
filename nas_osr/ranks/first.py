"""The first of several ranks: what it alone has, and what it tells the others."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Generic, TypeVar

import torch
from lightning_fabric import Fabric
from torch import distributed as dist

from nas_osr.errors import UserError

T = TypeVar("T")
R = TypeVar("R")


class FirstRank(Generic[T]):
    """Something that the first rank has and no other, such as the run folder.

    Args:
        fabric: of all ranks.
        value: on the first rank; elsewhere nobody reads it.
    """

    def __init__(self, fabric: Fabric, value: T) -> None:
        self._fabric = fabric
        self.value = value

    @property
    def here(self) -> bool:
        """Whether this is the first rank."""
        return self._fabric.global_rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other rank."""
        return self._fabric.world_size == 1

    def call(self, function: Callable[[T], R]) -> R:
        """What `function` makes of the value on the first rank, on every rank: plain values and tensors on the CPU.

        Every rank calls this at the same time.

        Raises:
            UserError: `function` raised it; on every rank.
        """
        if self.alone:
            return function(self.value)
        outcome: Any = None
        if self.here:
            try:
                outcome = function(self.value), None
            except UserError as error:
                outcome = None, str(error)
        result, mistake = self._fabric.broadcast(outcome)
        if mistake is not None:
            raise UserError(mistake)
        return result  # type: ignore[no-any-return]


@contextlib.contextmanager
def opened_by_first(fabric: Fabric, opening: Callable[[], AbstractContextManager[T]]) -> Iterator[FirstRank[T]]:
    """What `opening` opens on the first rank, closed at the end; its UserError is raised on every rank."""
    with ExitStack() as stack:
        opened: list[Any] = [None]

        def enter(_: None) -> None:
            opened[0] = stack.enter_context(opening())

        FirstRank(fabric, None).call(enter)
        yield FirstRank(fabric, opened[0])


def check_same(fabric: Fabric, what: str, value: str) -> None:
    """UserError, on every rank, unless all have the same `value`."""
    if fabric.world_size == 1:
        return
    different = torch.tensor(int(FirstRank(fabric, value).call(str) != value), device=fabric.device)
    dist.all_reduce(different)
    if different:
        raise UserError(f"the {what} of {int(different)} of {fabric.world_size} processes are not those of the first")
