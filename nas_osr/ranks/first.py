"""The first of several ranks: what it alone has, and what it tells the others."""

from __future__ import annotations

import contextlib
import io
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
        if not self.here:
            outcome = receive(self._fabric)
            if "error" in outcome:
                raise UserError(outcome["error"])
            return outcome["result"]
        try:
            result = function(self.value)
        except UserError as error:
            send(self._fabric, {"error": str(error)})
            raise
        send(self._fabric, {"result": result})
        return result


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


def send(fabric: Fabric, value: dict[str, Any]) -> None:
    """Send plain values and tensors from the first rank to all others."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    content = torch.frombuffer(bytearray(buffer.getbuffer()), dtype=torch.uint8).to(fabric.device)
    dist.broadcast(torch.tensor(len(content), device=fabric.device), 0)
    dist.broadcast(content, 0)


def receive(fabric: Fabric) -> dict[str, Any]:
    """What the first rank sends; nothing but plain values and tensors can be in it."""
    size = torch.zeros((), dtype=torch.int64, device=fabric.device)
    dist.broadcast(size, 0)
    content = torch.zeros(int(size), dtype=torch.uint8, device=fabric.device)
    dist.broadcast(content, 0)
    file = io.BytesIO(content.cpu().numpy().tobytes())
    return torch.load(file, map_location="cpu", weights_only=True)  # noqa: TID251 (from another rank, no file)
