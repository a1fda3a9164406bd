"""How long the pieces of a space take on a device, measured once: what a limit on latency goes by.

A network's latency is the sum over its stem, the forms of its cells and its neck, since a network computes one after
the other. The sum of two inputs, pooling and the objective's heads are not in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas_osr.cost.steps import Call, leave_no_trace, take_turns
from nas_osr.data.sources.base import Shape
from nas_osr.errors import UserError
from nas_osr.evaluation.judging import INFERENCE_BATCH
from nas_osr.files.text import read_object
from nas_osr.runs.names import LATENCY_FILE
from nas_osr.search_spaces.architectures.architecture import Architecture
from nas_osr.search_spaces.network import DiscreteNetwork
from nas_osr.search_spaces.pieces import Piece

ROUNDS, WARM_UP = 7, 2  # passes of each piece that count, and before them
MILLION = 1_000_000


@dataclass(frozen=True)
class LatencyTable:
    """Seconds of pieces of networks on a device.

    Attributes:
        device: its name.
        batch: images of a pass, as many as prediction takes at a time.
        nanoseconds: by `Piece.key`, of a pass of a batch: whole numbers, whose sums do not depend on their order.
    """

    device: str
    batch: int
    nanoseconds: Mapping[str, int]

    def of(self, piece: Piece) -> int:
        """Nanoseconds of a batch. UserError: it has not been measured."""
        if piece.key not in self.nanoseconds:
            raise UserError(f"the table of latencies, of {self.device}, has no {piece.key}: it is of another space")
        return self.nanoseconds[piece.key]

    def milliseconds(self, nanoseconds: int) -> float:
        """Of one image."""
        return nanoseconds / self.batch / MILLION

    def limit(self, milliseconds: float) -> int:
        """Nanoseconds of a batch of which no image takes more than this."""
        return int(milliseconds * self.batch * MILLION)

    def to_dict(self) -> dict[str, Any]:
        """As a file has it."""
        return {"device": self.device, "batch": self.batch, "nanoseconds": dict(self.nanoseconds)}


def read_latencies(path: Path) -> LatencyTable:
    """A table from its file, or from a run folder with one. Raises UserError."""
    path = path / LATENCY_FILE if path.is_dir() else path
    found = read_object(path)
    device, batch, values = found.get("device"), found.get("batch"), found.get("nanoseconds")
    whole = isinstance(values, dict) and all(type(value) is int and value >= 0 for value in values.values())
    if not isinstance(device, str) or type(batch) is not int or batch < 1 or not whole or not isinstance(values, dict):
        raise UserError(f"{path}: not a table of latencies, which a search with --max_latency leaves")
    return LatencyTable(device, batch, values)


def measure_latencies(pieces: Mapping[str, Piece], device: torch.device, batch: int = INFERENCE_BATCH) -> LatencyTable:
    """Measure pieces, by key, in float32: medians of passes that take turns."""
    with leave_no_trace(), torch.inference_mode():
        inputs = {piece.shape: images_for(piece.shape, batch, device) for piece in pieces.values()}
        calls = {
            key: Call(partial(_placed(piece.build(), device), inputs[piece.shape])) for key, piece in pieces.items()
        }
        measured = take_turns(calls, device, ROUNDS, WARM_UP)
    times = {key: round(found.seconds * 1e9) for key, found in sorted(measured.items())}
    return LatencyTable(name_device(device), batch, times)


def measure_network(architecture: Architecture, image_shape: Shape, device: torch.device, batch: int) -> float:
    """Milliseconds of an image of an architecture's whole encoder, measured in the same way."""
    mean, std = (0.0,) * image_shape[0], (1.0,) * image_shape[0]
    with leave_no_trace(), torch.inference_mode():
        network = _placed(DiscreteNetwork(architecture, image_shape[0], mean, std), device)
        call = Call(partial(network, images_for(image_shape, batch, device)))
        return take_turns({"": call}, device, ROUNDS, WARM_UP)[""].seconds / batch * 1e3


def images_for(shape: Shape, batch: int, device: torch.device) -> torch.Tensor:
    """Random maps [batch, C, H, W]."""
    return torch.rand(batch, *shape, device=device).contiguous(memory_format=torch.channels_last)


def name_device(device: torch.device) -> str:
    """The GPU's name, or the CPU with the threads that it uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def _placed(network: nn.Module, device: torch.device) -> nn.Module:
    return network.to(device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload, no-any-return]
