"""A stand-in for a CUDA graph on a CPU: it repeats the operations that were recorded, and no line of Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

READS = ("_local_scalar_dense", "nonzero", "masked_select")  # what Python sees of numbers; a card refuses to record it
SET_ASIDE = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")


class Recorder(TorchDispatchMode):
    """Runs operations, and notes each with the memory that it reads and writes."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, list[Any]]] = []
        self.kept: list[Any] = []  # memory that is set aside stays, with the views of it
        self.reads: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        result = func(*args, **kwargs)
        if name in READS:
            self.reads.append(name)
        if name in SET_ASIDE or func.is_view:
            self.kept += tree_leaves(result)
        else:
            given, named = tree_map(unlinked, args), tree_map(unlinked, kwargs)
            self.operations.append((func, given, named, [unlinked(leaf) for leaf in tree_leaves(result)]))
        return result


def unlinked(value: Any) -> Any:
    """The same memory, without a history."""
    return value.detach() if isinstance(value, Tensor) else value


class Tape:
    """In the place of `nas_osr.training.graphs.CudaGraph`."""

    made: list[Tape] = []

    def __init__(self, device: torch.device) -> None:
        self.replays, self.recorder = 0, Recorder()
        self.done = False  # what a card only records has been computed here already, once
        type(self).made.append(self)

    def warm_up(self, call: Callable[[], None]) -> None:
        call()

    def capture(self, call: Callable[[], None]) -> None:
        with self.recorder:
            call()
        self.done = True

    def replay(self) -> None:
        self.replays += 1
        if self.done:
            self.done = False
            return
        with torch.no_grad():
            for func, args, kwargs, held in self.recorder.operations:
                for place, value in zip(held, tree_leaves(func(*args, **kwargs)), strict=True):
                    if isinstance(place, Tensor) and place.data_ptr() != value.data_ptr():
                        place.copy_(value)
